"""The account rules of the market game: the only account arithmetic of the project, compiled.

Time line of one step. The agent decides at the close of bar t, with the mask that
`write_mask` gives for the account at that close. Then `advance` plays bar t + 1:

1. order: filled at the open; buys at open x (1 + s), sells at open x (1 - s), fee f on the
   traded notional. An illegal action is a hold. Buying a share phi of cash trades
   phi c / (o (1 + s)(1 + f)); selling trades phi q, or all where it would leave dust (below).
   Reverse: w' = min(|w|, 1), w = q o / (c + q o) at the raw open before any cost; the position
   is closed with costs, leaving E1; then the other side is opened with notional
   w' E1 / (1 + f w') at its own fill price, so that its weight after the fee is exactly w'; dust is not opened.
2. borrow: a short pays (rate per year / bars per year) x |q| x open on every bar it is held
   after the fill at its open, its first bar included.
3. liquidation: p_liq = c / (|q| (1 + m)); if the high reaches it, the short is bought back at
   max(open, p_liq) x (1 + s) with fee and the episode is terminated.
4. end of a segment: on the segment's last bar an open position is closed at the close, with
   slippage and fee. End of the data or of the episode: only marked.
5. mark at the close; r = log(E' / E).

Dust: no order leaves a position worth less than `min_cash_frac` of equity, both at the price of the fill and equity
before it. A sale that would leave less of a long sells all of it; a reversal that would open less ends flat. This is
the mirror image of the floor of buying, added to the plan's rules on purpose: sales of 25 % and 50 % alone never end,
so an agent held 1e-100 of a coin for months, as a position in every number about it. Only what the price makes of a
position between two orders can be smaller.

Ruin: a position whose closing, for whatever reason, leaves less than
`equity_floor_frac` x `initial_equity` leaves exactly that, and the episode is terminated.
Cash of a short includes the proceeds of its sale: equity = c + q p with q < 0.
The unrealised return is sign(q) (close / entry - 1); entry is the average fill price
(slippage in, fees out) of the buys or sells that opened or grew the position. Partial sells
keep the entry and the holding time; buys that add keep the holding time.

State is grouped in few arrays because a compiled call costs per argument: an account row
(`CASH` ... `SHAPE_B`), a clock row (`BAR` ... `EPISODE`), the rules' numbers (`terms_of`) and a bar
row (`OPEN`, `HIGH`, `CLOSE`). Everything compiled is in this one file on purpose: numba's cache
of a function does not notice a change of a callee in another file.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from configs.schema import CostsConfig, EnvConfig

ACTION_NAMES = ("hold", "buy_25", "buy_50", "buy_100", "sell_25", "sell_50", "sell_100", "close", "reverse")
ACTIONS = len(ACTION_NAMES)
HOLD, CLOSE_POSITION, REVERSE = 0, 7, 8
SHARES = (0.25, 0.5, 1.0)

CASH, QUANTITY, ENTRY, HELD, EQUITY, BORROW, SHAPE_A, SHAPE_B = range(8)
"""Account row, float64: HELD in bars, EQUITY at the last mark, BORROW paid since the last fill."""
ACCOUNT_FIELDS = 8
BAR, END, CLOSES, EPISODE = range(4)
"""Clock row, int64: the bar decided on, the episode's last bar, whether a segment closes there, its number."""
CLOCK_FIELDS = 4
OPEN, HIGH, CLOSE = range(3)
"""Columns of the bars array, float64."""
DRAWS, FIRST, STARTS, LAST, ENDS_SEGMENT = range(5)
"""Start row, int64: the draws of this row and all before it, its first bar, how many bars from there on an episode may
start on, the last bar that an episode from here may reach, whether a segment ends there. A row with as many draws as
starts is drawn uniformly; one with m times as many, m times as often."""

(FEE, SLIPPAGE, BORROW_PER_BAR, LEAST, MAINTENANCE, FLOOR, INITIAL_EQUITY, EPISODE_BARS) = range(8)
(WEIGHT_CLIP, CASH_CLIP, HOLDING_SCALE, OBSERVATION_CLIP) = range(8, 12)
(REWARD_SCALE, REWARD_CLIP, SHAPING, SHAPING_SCALE, SHARPE_RATE) = range(12, 17)
TERMS = 17

SHAPINGS = ("none", "drawdown", "differential_sharpe")
NONE, DRAWDOWN, DIFFERENTIAL_SHARPE = range(3)
SHAPING_STATE = (0, 1, 2)
"""Numbers that each shaping adds to the observation."""
ACCOUNT_OBSERVATION = 4
"""Weight, unrealised return, cash / equity, holding time."""

REASONS = ("order", "reverse-close", "reverse-open", "liquidation", "segment-end")
ORDER, REVERSE_CLOSE, REVERSE_OPEN, LIQUIDATION, SEGMENT_END = range(5)
F_REASON, F_QUANTITY, F_PRICE, F_NOTIONAL, F_FEE, F_BORROW, F_CASH, F_POSITION = range(8)
"""Columns of a fill, float64: quantity is signed (buys positive), the last two are after the fill."""
FILL_SHAPE = (3, 8)
"""Most fills of one bar: reverse (2), then liquidation or segment end."""

ILLEGAL, POSITION_CHANGES, EPISODES, LIQUIDATIONS = range(ACTIONS, ACTIONS + 4)
"""Counters after the nine of legal actions."""
COUNTERS = ACTIONS + 4

compiled = njit(cache=True, _nrt=False)  # type: ignore[call-overload]
"""Without reference counts on array views (`_nrt`, which the stubs omit): what it compiles allocates
nothing, and counting made a step 8 x as long."""


def terms_of(env: EnvConfig, costs: CostsConfig, bars_per_year: float) -> np.ndarray:
    """The numbers of the rules as one (TERMS,) float64 array."""
    terms = np.zeros(TERMS)
    terms[FEE] = costs.fee_frac
    terms[SLIPPAGE] = costs.slippage_frac
    terms[BORROW_PER_BAR] = costs.borrow_frac_per_year / bars_per_year
    terms[LEAST] = env.min_cash_frac
    terms[MAINTENANCE] = env.maintenance_frac
    terms[FLOOR] = env.equity_floor_frac * env.initial_equity
    terms[INITIAL_EQUITY] = env.initial_equity
    terms[EPISODE_BARS] = env.episode_bars
    terms[WEIGHT_CLIP] = env.weight_clip
    terms[CASH_CLIP] = env.cash_clip
    terms[HOLDING_SCALE] = env.holding_scale_bars
    terms[OBSERVATION_CLIP] = env.observation_clip
    terms[REWARD_SCALE] = env.reward_scale
    terms[REWARD_CLIP] = env.reward_clip
    terms[SHAPING] = SHAPINGS.index(env.shaping)
    terms[SHAPING_SCALE] = env.shaping_scale
    terms[SHARPE_RATE] = env.differential_sharpe_rate
    return terms


def observation_size(env: EnvConfig, columns: int) -> int:
    """Numbers in an observation over a tape of `columns` columns."""
    return columns + ACCOUNT_OBSERVATION + SHAPING_STATE[SHAPINGS.index(env.shaping)]


@compiled
def open_account(account, equity):
    """Make `account` a fresh flat one that holds `equity` in cash."""
    account[:] = 0.0
    account[CASH] = equity
    account[EQUITY] = equity


@compiled
def is_legal(account, action, terms):
    """Whether `action` is legal for the account at its last mark."""
    if 1 <= action <= 3:
        return account[QUANTITY] >= 0.0 and account[CASH] >= terms[LEAST] * account[EQUITY]
    if 4 <= action <= 6:
        return account[QUANTITY] > 0.0
    if action == CLOSE_POSITION or action == REVERSE:
        return account[QUANTITY] != 0.0
    return action == HOLD


@compiled
def write_mask(account, terms, mask):
    """Write the (9,) bool mask of legal actions."""
    mask[HOLD] = True
    mask[1:4] = is_legal(account, 1, terms)
    mask[4:7] = is_legal(account, 4, terms)
    mask[CLOSE_POSITION:] = is_legal(account, CLOSE_POSITION, terms)


@compiled
def advance(account, action, bar, closes, terms, fills):
    """Play one bar after the decision `action`.

    Args:
        account: account row, changed in place.
        action: 0..8; an illegal one is a hold.
        bar: (open, high, close) of the bar after the decision.
        closes: whether a segment ends with this bar, so that the position is closed at its close.
        terms: from `terms_of`.
        fills: (3, 8) array that receives the bar's fills in order.

    Returns:
        (log return of equity, terminated, number of fills).
    """
    before = account[EQUITY]
    count = 0
    if is_legal(account, action, terms):
        count = _fill_order(account, action, bar[OPEN], terms, fills)
    liquidated = False
    if account[QUANTITY] < 0.0:
        borrow = terms[BORROW_PER_BAR] * -account[QUANTITY] * bar[OPEN]
        account[CASH] -= borrow
        account[BORROW] += borrow
        trigger = account[CASH] / (-account[QUANTITY] * (1.0 + terms[MAINTENANCE]))
        if bar[HIGH] >= trigger:
            count = _close(account, max(bar[OPEN], trigger), LIQUIDATION, terms, fills, count)
            liquidated = True
    if closes and account[QUANTITY] != 0.0:
        count = _close(account, bar[CLOSE], SEGMENT_END, terms, fills, count)
    flat = account[QUANTITY] == 0.0
    account[HELD] = 0.0 if flat else account[HELD] + 1.0
    account[EQUITY] = account[CASH] + account[QUANTITY] * bar[CLOSE]
    ruined = flat and account[CASH] <= terms[FLOOR]
    return math.log(account[EQUITY] / before), liquidated or ruined, count


@compiled
def _fill_order(account, action, price, terms, fills):
    if action == HOLD:
        return 0
    if action <= 3:
        fill_price = price * (1.0 + terms[SLIPPAGE])
        bought = SHARES[action - 1] * account[CASH] / (fill_price * (1.0 + terms[FEE]))
        return _trade(account, bought, fill_price, ORDER, terms, fills, 0)
    if action <= 6:
        fill_price, held = price * (1.0 - terms[SLIPPAGE]), account[QUANTITY]
        sold = SHARES[action - 4] * held
        if (held - sold) * fill_price < terms[LEAST] * (account[CASH] + held * fill_price):
            return _close(account, price, ORDER, terms, fills, 0)
        return _trade(account, -sold, fill_price, ORDER, terms, fills, 0)
    if action == CLOSE_POSITION:
        return _close(account, price, ORDER, terms, fills, 0)
    return _reverse(account, price, terms, fills)


@compiled
def _reverse(account, price, terms, fills):
    side = -1.0 if account[QUANTITY] > 0.0 else 1.0
    value = abs(account[QUANTITY]) * price
    equity = account[CASH] + account[QUANTITY] * price
    count = _close(account, price, REVERSE_CLOSE, terms, fills, 0)
    if account[CASH] <= terms[FLOOR]:
        return count
    # equity > 0 here: the costs of the close only lower it, and what they left is above the floor
    weight = min(value / equity, 1.0)
    notional = weight * account[CASH] / (1.0 + terms[FEE] * weight)
    if notional < terms[LEAST] * account[CASH]:
        return count
    fill_price = price * (1.0 + side * terms[SLIPPAGE])
    return _trade(account, side * notional / fill_price, fill_price, REVERSE_OPEN, terms, fills, count)


@compiled
def _close(account, price, reason, terms, fills, count):
    side = -1.0 if account[QUANTITY] > 0.0 else 1.0
    fill_price = price * (1.0 + side * terms[SLIPPAGE])
    count = _trade(account, -account[QUANTITY], fill_price, reason, terms, fills, count)
    if account[CASH] < terms[FLOOR]:
        account[CASH] = terms[FLOOR]
        fills[count - 1, F_CASH] = terms[FLOOR]
    return count


@compiled
def _trade(account, quantity, price, reason, terms, fills, count):
    """Book one fill: the one place where cash and quantity change by a trade."""
    notional = abs(quantity) * price
    fee = terms[FEE] * notional
    held = account[QUANTITY]
    if held == 0.0:
        account[ENTRY] = price
        account[HELD] = 0.0
    elif held * quantity > 0.0:
        account[ENTRY] = (held * account[ENTRY] + quantity * price) / (held + quantity)
    account[QUANTITY] = held + quantity
    account[CASH] -= quantity * price + fee
    fill = fills[count]
    fill[F_REASON] = reason
    fill[F_QUANTITY] = quantity
    fill[F_PRICE] = price
    fill[F_NOTIONAL] = notional
    fill[F_FEE] = fee
    fill[F_BORROW] = account[BORROW]
    fill[F_CASH] = account[CASH]
    fill[F_POSITION] = account[QUANTITY]
    account[BORROW] = 0.0
    return count + 1


@compiled
def shape(account, log_return, terms):
    """The shaping term of a step, in the learner's reward units; moves its state on.

    drawdown: -scale x the growth of the log drawdown d; d' = max(0, d - r).
    differential_sharpe: scale x (B dA - A dB / 2) / (B - A^2)^1.5 with dA = r - A,
    dB = r^2 - B, then A += eta dA, B += eta dB (Moody & Saffell 2001, eq. 14); 0 while B = A^2.
    """
    kind = terms[SHAPING]
    if kind == DRAWDOWN:
        depth = max(0.0, account[SHAPE_A] - log_return)
        growth = max(0.0, depth - account[SHAPE_A])
        account[SHAPE_A] = depth
        return -terms[SHAPING_SCALE] * terms[REWARD_SCALE] * growth
    if kind == DIFFERENTIAL_SHARPE:
        mean, square = account[SHAPE_A], account[SHAPE_B]
        mean_step, square_step = log_return - mean, log_return * log_return - square
        variance = square - mean * mean
        account[SHAPE_A] = mean + terms[SHARPE_RATE] * mean_step
        account[SHAPE_B] = square + terms[SHARPE_RATE] * square_step
        if variance <= 1e-14:
            return 0.0
        return terms[SHAPING_SCALE] * (square * mean_step - 0.5 * mean * square_step) / variance**1.5
    return 0.0


@compiled
def _clip(value, limit):
    return min(max(value, -limit), limit)


@compiled
def observe(account, close, row, terms, out):
    """Write the observation: the tape's `row`, the account at `close`, the shaping's state."""
    columns = row.shape[0]
    for column in range(columns):
        out[column] = row[column]
    quantity, equity = account[QUANTITY], account[EQUITY]
    unrealised = 0.0
    if quantity != 0.0:
        change = close / account[ENTRY] - 1.0
        unrealised = change if quantity > 0.0 else -change
    out[columns] = _clip(quantity * close / equity, terms[WEIGHT_CLIP])
    out[columns + 1] = _clip(unrealised, terms[OBSERVATION_CLIP])
    out[columns + 2] = min(max(account[CASH] / equity, 0.0), terms[CASH_CLIP])
    out[columns + 3] = min(account[HELD] / terms[HOLDING_SCALE], 1.0)
    if terms[SHAPING] != NONE:
        out[columns + 4] = _clip(account[SHAPE_A] * terms[REWARD_SCALE], terms[OBSERVATION_CLIP])
    if terms[SHAPING] == DIFFERENTIAL_SHARPE:
        deviation = math.sqrt(account[SHAPE_B])
        out[columns + 5] = _clip(deviation * terms[REWARD_SCALE], terms[OBSERVATION_CLIP])


@compiled
def play(account, clock, action, bars, terms, fills):
    """Advance one environment by one decision.

    Returns (log return, learner's reward, shaping term in it, terminated, truncated, number of fills).
    """
    clock[BAR] += 1
    last = clock[BAR] == clock[END]
    log_return, terminated, count = advance(
        account, action, bars[clock[BAR]], last and clock[CLOSES] == 1, terms, fills
    )
    term = shape(account, log_return, terms)
    reward = _clip(terms[REWARD_SCALE] * log_return + term, terms[REWARD_CLIP])
    return log_return, reward, term, terminated, last and not terminated, count


@compiled
def draw_start(seed, env, episode, draws):
    """Which of `draws` an episode begins with: uniform, from a counter-based hash.

    SplitMix64's step and finaliser (Steele et al. 2014) over the three numbers, so that the answer
    depends on them alone and not on how many environments there are.
    """
    state = np.uint64(0)
    for word in (seed, env, episode):
        state = (state ^ np.uint64(word)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return np.int64(state % np.uint64(draws))


@compiled
def begin_episode(account, clock, starts, draw, terms):
    """Start a flat episode where the `draw`-th of the draws of all start rows says."""
    low, high = 0, starts.shape[0] - 1
    while low < high:
        middle = (low + high) // 2
        if starts[middle, DRAWS] > draw:
            high = middle
        else:
            low = middle + 1
    before = starts[low - 1, DRAWS] if low > 0 else 0
    first, last = starts[low, FIRST] + (draw - before) % starts[low, STARTS], starts[low, LAST]
    end = min(last, first + np.int64(terms[EPISODE_BARS]))
    clock[BAR], clock[END] = first, end
    clock[CLOSES] = starts[low, ENDS_SEGMENT] if end == last else 0
    open_account(account, terms[INITIAL_EQUITY])


@compiled
def begin_next(account, clock, starts, seed, env, terms):
    """Start the next episode of environment `env` on a drawn bar."""
    clock[EPISODE] += 1
    draw = draw_start(seed, env, clock[EPISODE], starts[-1, DRAWS])
    begin_episode(account, clock, starts, draw, terms)


@compiled
def look(account, clock, bars, market, terms, obs, mask):
    """Write what one environment's agent sees at its clock's bar: observation and mask."""
    observe(account, bars[clock[BAR], CLOSE], market[clock[BAR]], terms, obs)
    write_mask(account, terms, mask)


@compiled
def play_one(account, clock, action, bars, market, terms, fills, obs, mask):
    """`play`, then `look`: the step of a single environment, without reset; returns what `play` returns."""
    outcome = play(account, clock, action, bars, terms, fills)
    look(account, clock, bars, market, terms, obs, mask)
    return outcome


@compiled
def reset_all(account, clock, bars, market, starts, seed, terms, obs, mask):
    """Start the next episode of every environment."""
    for env in range(account.shape[0]):
        begin_next(account[env], clock[env], starts, seed[0], env, terms)
        look(account[env], clock[env], bars, market, terms, obs[env], mask[env])


@compiled
def play_all(
    account, clock, actions, bars, market, starts, seed, terms, obs, mask,
    log_return, reward, shaping, terminated, truncated, final_obs, counters, fills,
):  # fmt: skip
    """Step every environment, with automatic reset: where an episode ended, `final_obs` holds its
    last observation and `obs`, `mask` those of the next episode's first bar."""
    for env in range(account.shape[0]):
        own, ticks, action = account[env], clock[env], actions[env]
        legal = 0 <= action < ACTIONS and mask[env, action]
        counters[action if legal else ILLEGAL] += 1
        before = own[QUANTITY]
        log_return[env], reward[env], shaping[env], over, cut, _ = play(own, ticks, action, bars, terms, fills)
        terminated[env], truncated[env] = over, cut
        counters[POSITION_CHANGES] += before != own[QUANTITY]
        if over or cut:
            counters[EPISODES] += 1
            counters[LIQUIDATIONS] += over
            observe(own, bars[ticks[BAR], CLOSE], market[ticks[BAR]], terms, final_obs[env])
            begin_next(own, ticks, starts, seed[0], env, terms)
        look(own, ticks, bars, market, terms, obs[env], mask[env])


@compiled
def trade_to(account, weight, price, terms, fills):
    """Trade at the open so that position over equity, both at `price` and after costs, is `weight`; dust is 0.

    With k the cash that one unit's trade moves, over its price, q' p = weight (c + q p k - q' p k + q' p).
    """
    cash, quantity = account[CASH], account[QUANTITY]
    equity = cash + quantity * price
    if equity <= 0.0:
        return  # the open gapped through a short's whole equity: the rulebook liquidates it on this bar
    if abs(weight) < terms[LEAST]:
        weight = 0.0
    drifted = quantity * price / equity
    if weight == drifted:
        return
    if weight > drifted:
        fill_price = price * (1.0 + terms[SLIPPAGE])
        moved = fill_price * (1.0 + terms[FEE])
    else:
        fill_price = price * (1.0 - terms[SLIPPAGE])
        moved = fill_price * (1.0 - terms[FEE])
    wanted = weight * (cash + quantity * moved) / (price + weight * (moved - price))
    _trade(account, wanted - quantity, fill_price, ORDER, terms, fills, 0)


@njit(cache=True)  # allocates, unlike the others
def replay(prices, starts, ends, held, events, shifts, terms):
    """Per-bar Sharpe ratio and total return of the mean of the tracks (K, L), for each shift."""
    count, length = held.shape
    sharpe, total_return = np.zeros(shifts.size), np.zeros(shifts.size)
    account, fills, mean = np.zeros(ACCOUNT_FIELDS), np.zeros(FILL_SHAPE), np.zeros(length)
    for shift in range(shifts.size):
        mean[:] = 0.0
        for track in range(count):
            open_account(account, terms[INITIAL_EQUITY])
            for bar in range(length):
                source = (bar + shifts[shift]) % length
                before = account[EQUITY]
                if starts[bar] or events[track, source]:
                    trade_to(account, held[track, source], prices[bar, OPEN], terms, fills)
                _, terminated, _ = advance(account, HOLD, prices[bar], ends[bar], terms, fills)
                mean[bar] += (account[EQUITY] / before - 1.0) / count
                if terminated:
                    break
        deviation = np.sqrt(np.sum((mean - mean.mean()) ** 2) / (length - 1))
        sharpe[shift] = mean.mean() / deviation if deviation > 0.0 else 0.0
        total_return[shift] = np.prod(1.0 + mean) - 1.0
    return sharpe, total_return
