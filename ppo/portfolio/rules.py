"""The account rules of a portfolio: K assets of one currency and cash, by target weights; compiled.

Time line of one step. The agent decides at the close of row t of the union clock; only assets that are
READY there may be traded, and only those with a bar at t + 1 are: an order for another is dropped. Its raw action a
gives targets w = clip(a, -1, 1) x asset_cap (long only: at least 0), scaled down so that they and the weights of all
assets that cannot be traded add up to at most gross_limit. Then `advance` plays row t + 1:

1. order: at the opens. A leg is traded where its target differs from its drifted weight by more than the
   rebalance threshold, a share of the largest equal weight min(asset_cap, gross_limit / K), where it is 0 or where
   the side changes. A leg that would be left alone above asset_cap is trimmed to it, and if all would still add up to
   more than gross_limit those left alone are trimmed in one proportion: limits know no threshold. Weights here are
   at the raw opens, before costs. With E the equity and n the values at the raw opens, equity after costs E' solves

       E' = E - sum over traded legs of cost(w E' - n),   cost(z) = ((1 + s)(1 + f) - 1) z      for z > 0
                                                                    ((1 - s)(1 - f) - 1) z      for z < 0

   so that each traded leg ends with exactly w E' at the raw open; a target nearer to 0 than `min_cash_frac`, whoever
   wants it, is 0, as `ppo.rules` leaves no dust. cost is convex, so Newton's method from
   E goes down to the root and arrives after at most K + 1 steps. Where costs would leave no more than the
   floor, everything that can be traded is closed.
2. borrow: a short pays (rate per year / bars per year) x |q| x open on each own bar; negative cash pays the same
   rate on each row, booked to the longs by their values.
3. liquidation: margin(l) = cash + sum q x(l) - m sum over shorts |q| x(l), with x(l) on the straight path from
   the opens (l = 0) to the worst prices (l = 1: lows of longs, highs of shorts). If margin(1) <= 0, everything
   is closed at x(l) of the first l with margin(l) <= 0, with slippage and fee, and the episode terminates. For
   one short that is max(open, c / (|q| (1 + m))).
4. end of an asset's segment: its position is closed at its last close, with slippage and fee.
5. mark at the closes; r = log(E' / E).

A row where an asset has no bar carries its last close as all four prices: the quantity is kept and marked there.
Ruin: an account that is flat with no more than the floor is left with the floor, and the episode terminates.
With one asset all this is `ppo.rules`, proved by a test; everything compiled is in this one file because numba's
cache of a function does not notice a change of a callee in another file.

Shapes: K = assets, U = rows of the union clock, F = tape columns of one asset, E = environments.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from configs.schema import CostsConfig, EnvConfig, MultiAssetConfig
from ppo.rules import SHAPING_STATE, SHAPINGS

CASH, EQUITY, HELD, BORROW, SHAPE_A, SHAPE_B = range(6)
"""Account row, float64: EQUITY at the last mark, HELD in bars since the account was flat, BORROW paid since the last
fill."""
ACCOUNT_FIELDS = 6
QUANTITY, ENTRY, FLOW = range(3)
"""Leg row, float64: FLOW is the cash that the leg's fills and borrow brought, costs in it."""
LEG_FIELDS = 3
BAR, END, EPISODE = range(3)
"""Clock row, int64: the row decided on, the episode's last row, its number."""
CLOCK_FIELDS = 3
OPEN, HIGH, LOW, CLOSE = range(4)
"""Last axis of the prices (U, K, 4), float64; without a bar all four are the last close."""
PRESENT, READY, CLOSES = 1, 2, 4
"""Bits of the flags (U, K): has a bar; may be decided on; the asset's segment ends with this bar."""
TARGET, WANTED, TRADABLE = range(3)
"""Rows of an order (3, K), float64: target weight; who wants the leg traded to it, 0 for nobody; 1 where it can be."""
ORDER_FIELDS = 3
BY_AGENT, BY_LIMIT = 1.0, 2.0
"""Who wants a leg traded: the agent or a baseline, or only the limits."""
ROUNDING = 1e-9
"""Share of a limit that is no excess: weights come back from quantities."""

(FEE, SLIPPAGE, BORROW_PER_BAR, MAINTENANCE, FLOOR, INITIAL_EQUITY, EPISODE_BARS) = range(7)
(WEIGHT_CLIP, CASH_CLIP, HOLDING_SCALE, OBSERVATION_CLIP) = range(7, 11)
(REWARD_SCALE, REWARD_CLIP, SHAPING, SHAPING_SCALE, SHARPE_RATE) = range(11, 16)
(GROSS_LIMIT, ASSET_CAP, ALLOW_SHORT, THRESHOLD, LEAST) = range(16, 21)
TERMS = 21

NONE, DRAWDOWN, DIFFERENTIAL_SHARPE = range(3)
LEG_OBSERVATION = 3
"""Weight, unrealised return, whether it may be traded."""
ACCOUNT_OBSERVATION = 3
"""Cash / equity, gross exposure, holding time."""

REASONS = ("order", "limit", "liquidation", "segment-end")
ORDERED, TRIMMED, LIQUIDATION, SEGMENT_END = range(4)
F_ASSET, F_REASON, F_QUANTITY, F_PRICE, F_NOTIONAL, F_FEE, F_BORROW, F_CASH, F_POSITION, F_FLOW = range(10)
"""Columns of a fill, float64: quantity is signed (buys positive), the last three are after the fill. A change of side
is two fills, through 0."""
FILL_FIELDS = 10
FILLS_PER_ASSET = 3
"""Most fills of one leg in one row: a change of side (2), then liquidation or segment end."""

compiled = njit(cache=True, _nrt=False)  # type: ignore[call-overload]
"""As in `ppo.rules`: nothing compiled here allocates."""


def terms_of(env: EnvConfig, costs: CostsConfig, bars_per_year: float, limits: MultiAssetConfig) -> np.ndarray:
    """The numbers of the rules as one (TERMS,) float64 array."""
    terms = np.zeros(TERMS)
    terms[FEE] = costs.fee_frac
    terms[SLIPPAGE] = costs.slippage_frac
    terms[BORROW_PER_BAR] = costs.borrow_frac_per_year / bars_per_year
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
    terms[GROSS_LIMIT] = limits.gross_limit
    terms[ASSET_CAP] = limits.asset_cap
    terms[ALLOW_SHORT] = limits.allow_short
    terms[THRESHOLD] = limits.rebalance_threshold
    terms[LEAST] = env.min_cash_frac
    return terms


def workspace(assets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Account row, legs, order and fills of one account of so many assets, all zero."""
    return (
        np.zeros(ACCOUNT_FIELDS),
        np.zeros((assets, LEG_FIELDS)),
        np.zeros((ORDER_FIELDS, assets)),
        np.zeros((FILLS_PER_ASSET * assets, FILL_FIELDS)),
    )


def observation_size(env: EnvConfig, assets: int, columns: int) -> int:
    """Numbers in an observation of `assets` assets with `columns` tape columns each."""
    own = assets * (columns + LEG_OBSERVATION)
    return own + ACCOUNT_OBSERVATION + SHAPING_STATE[SHAPINGS.index(env.shaping)]


@compiled
def open_account(account, legs, equity):
    """Make `account` a fresh flat one that holds `equity` in cash."""
    account[:] = 0.0
    legs[:] = 0.0
    account[CASH] = equity
    account[EQUITY] = equity


@compiled
def write_order(account, legs, action, row, prices, flags, terms, order):
    """Turn a raw action (K,), decided at the close of `row`, into the order for the next row."""
    bar, assets = prices[row + 1], legs.shape[0]
    order[:] = 0.0
    equity = _equity_at(account, legs, bar, OPEN)
    if equity <= 0.0:
        return
    gross, others = 0.0, 0.0
    for k in range(assets):
        if flags[row, k] & READY and flags[row + 1, k] & PRESENT:
            target = terms[ASSET_CAP] * min(max(np.float64(action[k]), -1.0), 1.0)
            if terms[ALLOW_SHORT] == 0.0:
                target = max(target, 0.0)
            order[TARGET, k] = target
            order[TRADABLE, k] = 1.0
            gross += abs(target)
        else:
            others += abs(legs[k, QUANTITY] * bar[k, OPEN] / equity)
    limit = max(terms[GROSS_LIMIT] - others, 0.0)
    slack = terms[THRESHOLD] * min(terms[ASSET_CAP], terms[GROSS_LIMIT] / assets)
    for k in range(assets):
        if order[TRADABLE, k]:
            if gross > limit:
                order[TARGET, k] *= limit / gross
            target, drifted = order[TARGET, k], legs[k, QUANTITY] * bar[k, OPEN] / equity
            turns = target == 0.0 or target * drifted < 0.0
            if target != drifted and (turns or abs(target - drifted) > slack):
                order[WANTED, k] = BY_AGENT
    keep_limits(account, legs, bar, terms, order)


@compiled
def keep_limits(account, legs, bar, terms, order):
    """Trim tradable legs that the order leaves alone: to the cap, then in one proportion into the gross limit.

    Wanted targets give way only where the legs that cannot be traded leave them no room.
    """
    equity, cap = _equity_at(account, legs, bar, OPEN), terms[ASSET_CAP]
    if equity <= 0.0:
        return
    wanted, others, alone = 0.0, 0.0, 0.0
    for k in range(legs.shape[0]):
        weight = legs[k, QUANTITY] * bar[k, OPEN] / equity
        if not order[TRADABLE, k]:
            others += abs(weight)
        elif order[WANTED, k]:
            wanted += abs(order[TARGET, k])
        else:
            order[TARGET, k] = min(max(weight, -cap), cap)
            alone += abs(order[TARGET, k])
            if abs(weight) > cap * (1.0 + ROUNDING):
                order[WANTED, k] = BY_LIMIT
    room = max(terms[GROSS_LIMIT] - others, 0.0)
    if wanted + alone <= room * (1.0 + ROUNDING):
        return
    shrunk = min(1.0, room / wanted) if wanted > 0.0 else 1.0
    kept = max(room - wanted, 0.0) / alone if alone > 0.0 else 0.0
    for k in range(legs.shape[0]):
        if order[WANTED, k] == BY_AGENT:
            order[TARGET, k] *= shrunk
        elif order[TRADABLE, k] and order[TARGET, k] != 0.0:
            order[TARGET, k] *= kept
            order[WANTED, k] = BY_LIMIT


@compiled
def advance(account, legs, order, bar, flags, ends, terms, fills):
    """Play one row after the decision that `order` holds.

    Args:
        account: account row, changed in place.
        legs: (K, LEG_FIELDS), changed in place.
        order: (3, K) targets and which legs to trade to them; only those with a bar may be wanted.
        bar: (K, 4) prices of the row after the decision.
        flags: (K,) of that row.
        ends: close every position at this row's closes.
        terms: from `terms_of`.
        fills: (3 K, FILL_FIELDS) array that receives the row's fills in order.

    Returns:
        (log return of equity, terminated, number of fills).
    """
    before = account[EQUITY]
    count = _trade(account, legs, order, bar, terms, fills)
    _pay_borrow(account, legs, bar, flags, terms)
    count, liquidated = _liquidate(account, legs, bar, terms, fills, count)
    for k in range(legs.shape[0]):
        if legs[k, QUANTITY] != 0.0 and (ends or flags[k] & CLOSES):
            count = _close(account, legs, k, bar[k, CLOSE], SEGMENT_END, terms, fills, count)
    if not _flat(legs) and _equity_at(account, legs, bar, CLOSE) <= 0.0:
        # the costs of a segment's end took what was left
        for k in range(legs.shape[0]):
            if legs[k, QUANTITY] != 0.0:
                count = _close(account, legs, k, bar[k, CLOSE], LIQUIDATION, terms, fills, count)
        liquidated = True
    flat = _flat(legs)
    ruined = flat and account[CASH] <= terms[FLOOR]
    if ruined and account[CASH] < terms[FLOOR]:
        account[CASH] = terms[FLOOR]
        if count > 0:
            fills[count - 1, F_CASH] = terms[FLOOR]
    account[HELD] = 0.0 if flat else account[HELD] + 1.0
    account[EQUITY] = _equity_at(account, legs, bar, CLOSE)
    return math.log(account[EQUITY] / before), liquidated or ruined, count


@compiled
def _trade(account, legs, order, bar, terms, fills):
    wanted = False
    for k in range(legs.shape[0]):
        wanted = wanted or order[WANTED, k] != 0.0
        if abs(order[TARGET, k]) < terms[LEAST]:
            order[TARGET, k] = 0.0
    equity = _equity_at(account, legs, bar, OPEN)
    if not wanted or equity <= 0.0:
        return 0  # a gap through the whole equity is liquidated on this row
    after = _equity_after(legs, order, bar, equity, terms)
    if after <= terms[FLOOR]:
        for k in range(legs.shape[0]):
            order[WANTED, k] = BY_AGENT if order[TRADABLE, k] else 0.0
            order[TARGET, k] = 0.0
    count = 0
    for k in range(legs.shape[0]):
        if order[WANTED, k]:
            target, held, price = order[TARGET, k], legs[k, QUANTITY], bar[k, OPEN]
            reason = ORDERED if order[WANTED, k] == BY_AGENT else TRIMMED
            quantity = -held if target == 0.0 else target * after / price - held
            if quantity != 0.0:
                side = 1.0 if quantity > 0.0 else -1.0
                fill_price = price * (1.0 + side * terms[SLIPPAGE])
                if held * (held + quantity) < 0.0:
                    count = _book(account, legs, k, -held, fill_price, reason, terms, fills, count)
                    quantity += held
                count = _book(account, legs, k, quantity, fill_price, reason, terms, fills, count)
    return count


@compiled
def _equity_after(legs, order, bar, equity, terms):
    """Equity at the raw opens after the costs of trading every wanted leg to its target: Newton from above."""
    buying = (1.0 + terms[SLIPPAGE]) * (1.0 + terms[FEE]) - 1.0
    selling = (1.0 - terms[SLIPPAGE]) * (1.0 - terms[FEE]) - 1.0
    after = equity
    for _ in range(legs.shape[0] + 2):
        excess, slope = after - equity, 1.0
        for k in range(legs.shape[0]):
            if order[WANTED, k]:
                traded = order[TARGET, k] * after - legs[k, QUANTITY] * bar[k, OPEN]
                rate = buying if traded > 0.0 else selling
                excess += rate * traded
                slope += rate * order[TARGET, k]
        if abs(excess) <= 1e-15 * equity:
            break
        after -= excess / slope
    return after


@compiled
def _pay_borrow(account, legs, bar, flags, terms):
    longs, lent = 0.0, max(-account[CASH], 0.0)
    for k in range(legs.shape[0]):
        longs += max(legs[k, QUANTITY], 0.0) * bar[k, OPEN]
    for k in range(legs.shape[0]):
        value, borrow = legs[k, QUANTITY] * bar[k, OPEN], 0.0
        if value < 0.0 and flags[k] & PRESENT:
            borrow = terms[BORROW_PER_BAR] * -value
        elif value > 0.0 and lent > 0.0:
            borrow = terms[BORROW_PER_BAR] * lent * value / longs
        account[CASH] -= borrow
        account[BORROW] += borrow
        legs[k, FLOW] -= borrow


@compiled
def _liquidate(account, legs, bar, terms, fills, count):
    first, last = account[CASH], account[CASH]
    for k in range(legs.shape[0]):
        quantity = legs[k, QUANTITY]
        kept = 1.0 + terms[MAINTENANCE] if quantity < 0.0 else 1.0
        first += kept * quantity * bar[k, OPEN]
        last += kept * quantity * (bar[k, HIGH] if quantity < 0.0 else bar[k, LOW])
    if last > 0.0 or _flat(legs):
        return count, False
    share = first / (first - last) if first > 0.0 else 0.0
    for k in range(legs.shape[0]):
        quantity = legs[k, QUANTITY]
        if quantity != 0.0:
            worst = bar[k, HIGH] if quantity < 0.0 else bar[k, LOW]
            price = bar[k, OPEN] + share * (worst - bar[k, OPEN])
            count = _close(account, legs, k, price, LIQUIDATION, terms, fills, count)
    return count, True


@compiled
def _close(account, legs, k, price, reason, terms, fills, count):
    side = -1.0 if legs[k, QUANTITY] > 0.0 else 1.0
    fill_price = price * (1.0 + side * terms[SLIPPAGE])
    return _book(account, legs, k, -legs[k, QUANTITY], fill_price, reason, terms, fills, count)


@compiled
def _book(account, legs, k, quantity, price, reason, terms, fills, count):
    """Book one fill: the one place where cash and quantities change by a trade."""
    notional = abs(quantity) * price
    fee = terms[FEE] * notional
    held = legs[k, QUANTITY]
    after = held + quantity
    if held == 0.0:
        legs[k, ENTRY] = price
    elif held * quantity > 0.0:
        legs[k, ENTRY] = (held * legs[k, ENTRY] + quantity * price) / after
    legs[k, QUANTITY] = after
    legs[k, FLOW] -= quantity * price + fee
    account[CASH] -= quantity * price + fee
    fill = fills[count]
    fill[F_ASSET] = k
    fill[F_REASON] = reason
    fill[F_QUANTITY] = quantity
    fill[F_PRICE] = price
    fill[F_NOTIONAL] = notional
    fill[F_FEE] = fee
    fill[F_BORROW] = account[BORROW]
    fill[F_CASH] = account[CASH]
    fill[F_POSITION] = after
    fill[F_FLOW] = legs[k, FLOW]
    account[BORROW] = 0.0
    return count + 1


@compiled
def _equity_at(account, legs, bar, which):
    equity = account[CASH]
    for k in range(legs.shape[0]):
        equity += legs[k, QUANTITY] * bar[k, which]
    return equity


@compiled
def _flat(legs):
    for k in range(legs.shape[0]):
        if legs[k, QUANTITY] != 0.0:
            return False
    return True


@compiled
def _clip(value, limit):
    return min(max(value, -limit), limit)


@compiled
def shape(account, log_return, terms):
    """The shaping term of a step, in the learner's reward units; moves its state on: `ppo.rules.shape`."""
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
def look(account, legs, row, prices, flags, market, terms, obs, mask):
    """Write what the agent sees at the close of `row`.

    Tape columns, then weight, unrealised return and "may be traded" of each asset, then cash / equity, gross
    exposure and holding time of the account, then the shaping's state; `mask` (K,) says which legs may be traded.
    """
    columns, equity, gross = market.shape[1], account[EQUITY], 0.0
    for column in range(columns):
        obs[column] = market[row, column]
    for k in range(legs.shape[0]):
        quantity, close, unrealised = legs[k, QUANTITY], prices[row, k, CLOSE], 0.0
        if quantity != 0.0:
            change = close / legs[k, ENTRY] - 1.0
            unrealised = change if quantity > 0.0 else -change
        weight = quantity * close / equity
        gross += abs(weight)
        ready = flags[row, k] & READY != 0
        mask[k] = ready
        place = columns + k * LEG_OBSERVATION
        obs[place] = _clip(weight, terms[WEIGHT_CLIP])
        obs[place + 1] = _clip(unrealised, terms[OBSERVATION_CLIP])
        obs[place + 2] = 1.0 if ready else 0.0
    place = columns + legs.shape[0] * LEG_OBSERVATION
    obs[place] = min(max(account[CASH] / equity, 0.0), terms[CASH_CLIP])
    obs[place + 1] = min(gross, terms[OBSERVATION_CLIP])
    obs[place + 2] = min(account[HELD] / terms[HOLDING_SCALE], 1.0)
    if terms[SHAPING] != NONE:
        obs[place + 3] = _clip(account[SHAPE_A] * terms[REWARD_SCALE], terms[OBSERVATION_CLIP])
    if terms[SHAPING] == DIFFERENTIAL_SHARPE:
        obs[place + 4] = _clip(math.sqrt(account[SHAPE_B]) * terms[REWARD_SCALE], terms[OBSERVATION_CLIP])


@compiled
def draw_start(seed, env, episode, starts):
    """Which of `starts` decisions an episode begins with: `ppo.rules.draw_start`."""
    state = np.uint64(0)
    for word in (seed, env, episode):
        state = (state ^ np.uint64(word)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return np.int64(state % np.uint64(starts))


@compiled
def begin_episode(account, legs, clock, spans, start, terms):
    """Start a flat episode on the `start`-th decision of `spans`, as `ppo.portfolio.align.span_rows` gives them."""
    low, high = 0, spans.shape[0]
    while high - low > 1:
        middle = (low + high) // 2
        if spans[middle, 0] <= start:
            low = middle
        else:
            high = middle
    first, last = spans[low, 1] + start - spans[low, 0], spans[low, 2]
    clock[BAR], clock[END] = first, min(last, first + np.int64(terms[EPISODE_BARS]))
    open_account(account, legs, terms[INITIAL_EQUITY])


@compiled
def begin_next(account, legs, clock, spans, seed, env, terms):
    """Start the next episode of environment `env` on a drawn row."""
    clock[EPISODE] += 1
    total = spans[-1, 0] + spans[-1, 2] - spans[-1, 1]
    begin_episode(account, legs, clock, spans, draw_start(seed, env, clock[EPISODE], total), terms)


@compiled
def reset_all(account, legs, clock, prices, flags, market, spans, seed, terms, obs, mask):
    """Start the next episode of every environment."""
    for env in range(account.shape[0]):
        begin_next(account[env], legs[env], clock[env], spans, seed[0], env, terms)
        look(account[env], legs[env], clock[env, BAR], prices, flags, market, terms, obs[env], mask[env])


@compiled
def play_all(
    account, legs, clock, actions, prices, flags, market, spans, seed, terms, order, fills, obs, mask,
    log_return, reward, shaping, terminated, truncated, final_obs, orders,
):  # fmt: skip
    """Step every environment, with automatic reset: where an episode ended, `final_obs` holds its last
    observation and `obs`, `mask` those of the next episode's first row; `orders` counts the legs that
    the agent wanted."""
    for env in range(account.shape[0]):
        own, held, ticks = account[env], legs[env], clock[env]
        write_order(own, held, actions[env], ticks[BAR], prices, flags, terms, order)
        ticks[BAR] += 1
        row, orders[env] = ticks[BAR], 0
        for k in range(held.shape[0]):
            orders[env] += order[WANTED, k] == BY_AGENT
        log_return[env], over, _ = advance(own, held, order, prices[row], flags[row], False, terms, fills)
        shaping[env] = shape(own, log_return[env], terms)
        reward[env] = _clip(terms[REWARD_SCALE] * log_return[env] + shaping[env], terms[REWARD_CLIP])
        cut = row == ticks[END] and not over
        terminated[env], truncated[env] = over, cut
        if over or cut:
            look(own, held, row, prices, flags, market, terms, final_obs[env], mask[env])
            begin_next(own, held, ticks, spans, seed[0], env, terms)
        look(own, held, ticks[BAR], prices, flags, market, terms, obs[env], mask[env])


@compiled
def replay(prices, flags, tradable, starts, ends, held, ordered, shift, terms, account, legs, order, fills, growth):
    """Add to `growth` (L,) the simple returns of a track whose weights are moved `shift` rows along the ring.

    Where the track had legs ordered, those are traded to the weights they had after that fill; on a span's first
    row all are. L rows with a return: prices (L, K, 4), flags and tradable (L, K), starts and ends (L,) of spans,
    held and ordered (L, K) of the track.
    """
    length, assets = tradable.shape
    open_account(account, legs, terms[INITIAL_EQUITY])
    for row in range(length):
        source = (row + shift) % length
        before = account[EQUITY]
        for k in range(assets):
            order[TRADABLE, k] = 1.0 if tradable[row, k] else 0.0
            order[TARGET, k] = held[source, k]
            wanted = tradable[row, k] and (starts[row] or ordered[source, k])
            order[WANTED, k] = BY_AGENT if wanted else 0.0
        keep_limits(account, legs, prices[row], terms, order)
        _, terminated, _ = advance(account, legs, order, prices[row], flags[row], ends[row], terms, fills)
        growth[row] += account[EQUITY] / before - 1.0
        if terminated:
            break
