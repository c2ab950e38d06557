"""The cores of a policy: what turns observations into the hidden units of actor and critic.

One is memoryless; the other has an LSTM each for actor and critic, below the tanh layers.

Shapes: T = steps, B = sequences, D = observation, M = memory units of one LSTM,
S = 4 M = its state: hidden and cell of the actor's LSTM, then of the critic's.

Sequences run through torch's fused LSTM (cuDNN on a GPU, oneDNN on a CPU: 1.5 to 2.5 times as fast there as a
loop of our own with one product for all inputs, measured), cut where an episode of any sequence starts, because
the fused kernels cannot forget inside. Single steps, as rollouts and players take them, are one LSTM cell.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

FORGET_BIAS = 1.0
"""Of a new LSTM: it remembers until it learns to forget (Jozefowicz et al. 2015)."""


class MlpCore(nn.Module):
    """Two memoryless stacks of tanh layers, one for the actor and one for the critic."""

    state_size = 0

    def __init__(self, observation: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.actor = _tanh_layers(observation, hidden)
        self.critic = _tanh_layers(observation, hidden)

    def forward(self, obs: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden units of the actor and of the critic, and the state unchanged."""
        return self.actor(obs), self.critic(obs), state


class LstmCore(nn.Module):
    """Tanh layers on the observation beside what an LSTM remembers; an LSTM that says 0 leaves the MLP core."""

    def __init__(self, observation: int, memory: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.state_size = 4 * memory
        self.actor_memory = _undrawn_lstm(observation, memory)
        self.critic_memory = _undrawn_lstm(observation, memory)
        self.actor = _tanh_layers(observation + memory, hidden)
        self.critic = _tanh_layers(observation + memory, hidden)

    def draw_memory(self, generator: torch.Generator | None) -> None:
        """Give the LSTMs orthogonal weights for each gate; the layers are drawn by the policy."""
        for lstm in (self.actor_memory, self.critic_memory):
            for name, weights in lstm.named_parameters():
                for gate, part in enumerate(weights.detach().chunk(4)):
                    if name.startswith("weight"):
                        nn.init.orthogonal_(part, generator=generator)
                    else:  # the forget gate is the second of four; it has two biases, which add up
                        part.fill_(FORGET_BIAS / 2 if gate == 1 else 0.0)

    def forward(self, obs: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden units of the actor and of the critic, and the state after the last step.

        Args:
            obs: (T, B, D) observations, or (B, D) of a single step.
            state: (B, S) before the first step.
            start: (T, B) or (B,) bool; the state is forgotten there.
        """
        remember = _sequences if obs.dim() == 3 else _step
        actor, critic = state.chunk(2, -1)
        actor_memory, actor = remember(self.actor_memory, obs, actor, start)
        critic_memory, critic = remember(self.critic_memory, obs, critic, start)
        return (
            self.actor(torch.cat([obs, actor_memory], -1)),
            self.critic(torch.cat([obs, critic_memory], -1)),
            torch.cat([actor, critic], -1),
        )


def _step(lstm: nn.LSTM, obs_BD: Tensor, state_BS: Tensor, start_B: Tensor) -> tuple[Tensor, Tensor]:
    hidden, cell = state_BS.masked_fill(start_B.unsqueeze(-1), 0).chunk(2, -1)
    hidden, cell = torch.lstm_cell(obs_BD, (hidden, cell), *lstm.all_weights[0])
    return hidden, torch.cat([hidden, cell], -1)


def _sequences(lstm: nn.LSTM, obs_TBD: Tensor, state_BS: Tensor, start_TB: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    # the one number that a GPU waits for, once per minibatch
    cuts = start_TB[1:].any(-1).nonzero().squeeze(-1).add(1).tolist()
    lengths = [after - before for before, after in zip([0, *cuts], [*cuts, len(obs_TBD)], strict=True)]
    for obs, start in zip(obs_TBD.split(lengths), start_TB.split(lengths), strict=True):
        kept = state_BS.masked_fill(start[0].unsqueeze(-1), 0).unsqueeze(0)
        hidden, cell = (part.contiguous() for part in kept.chunk(2, -1))
        output, (hidden, cell) = lstm(obs, (hidden, cell))
        outputs.append(output)
        state_BS = torch.cat([hidden, cell], -1).squeeze(0)
    return torch.cat(outputs), state_BS


def _undrawn_lstm(inputs: int, units: int) -> nn.LSTM:
    # what skip_init does, which does not know that an LSTM takes a device; the global generator stays as it is
    return nn.LSTM(inputs, units, device="meta").to_empty(device="cpu")


def _tanh_layers(inputs: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Their weights are drawn by the policy."""
    widths = pairwise((inputs, *hidden))
    return nn.Sequential(*(layer for pair in widths for layer in (skip_init(nn.Linear, *pair), nn.Tanh())))
