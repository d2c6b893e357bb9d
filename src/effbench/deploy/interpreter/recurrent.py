"""Recurrent layers: LSTM, GRU and RNN, one or two directions, with sequences of different lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from effbench.deploy.interpreter.indexing import reverse_sequence
from effbench.deploy.interpreter.registry import OpCall, operator
from effbench.deploy.interpreter.shape import ints

Activation = Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor, float, float], Tensor], float, float]] = {
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "elu": (lambda x, a, b: torch.where(x < 0, a * torch.expm1(x), x), 1.0, 0.0),
    "hardsigmoid": (lambda x, a, b: (a * x + b).clamp(0, 1), 0.2, 0.5),
    "leakyrelu": (lambda x, a, b: torch.where(x < 0, a * x, x), 0.01, 0.0),
    "relu": (lambda x, a, b: F.relu(x), 0.0, 0.0),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), 1.0, 1.0),
    "sigmoid": (lambda x, a, b: torch.sigmoid(x), 0.0, 0.0),
    "softplus": (lambda x, a, b: F.softplus(x), 0.0, 0.0),
    "softsign": (lambda x, a, b: F.softsign(x), 0.0, 0.0),
    "tanh": (lambda x, a, b: torch.tanh(x), 0.0, 0.0),
    "thresholdedrelu": (lambda x, a, b: torch.where(x > a, x, 0), 1.0, 0.0),
}
"""Name in lower case -> the function of x, alpha and beta, and the defaults of the two."""
_USES_ALPHA = {"affine", "elu", "hardsigmoid", "leakyrelu", "scaledtanh", "thresholdedrelu"}
_USES_BETA = {"affine", "hardsigmoid", "scaledtanh"}


@dataclass(frozen=True)
class Gates:
    """The weights of one direction, as the standard stacks them: W (G H, I), R (G H, H), B (2 G H)."""

    call: OpCall
    weight: Tensor
    recurrence: Tensor
    bias: Tensor
    activations: tuple[Activation, ...]
    clip: float | None
    peepholes: Tensor | None = field(default=None)

    @property
    def hidden(self) -> int:
        """The size of the state."""
        return int(self.recurrence.shape[-1])

    def products(self, x: Tensor, h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the parts of each gate that come from the input and from the state, biases included."""
        math, half = self.call.math, self.bias.shape[0] // 2
        inputs = math.matmul(x, self.weight.T) + self.bias[:half]
        states = math.matmul(h, self.recurrence.T) + self.bias[half:]
        return list(torch.split(inputs, self.hidden, -1)), list(torch.split(states, self.hidden, -1))

    def act(self, index: int, x: Tensor) -> Tensor:
        """Apply the activation of a gate to its clipped sum."""
        bounded = x if self.clip is None else x.clamp(-self.clip, self.clip)
        return self.call.math.round(self.activations[index](bounded))


Step = Callable[[Gates, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""One time step: gates, input (B, I) and states (B, H), the first of which is the output; returns the new states."""


def _functions(names: Sequence[str], alpha: Sequence[float], beta: Sequence[float]) -> Iterator[Activation]:
    """Yield the activations; alpha and beta are listed only for those that take them."""
    alphas, betas = iter(alpha), iter(beta)
    for name in names:
        function, a, b = _ACTIVATIONS[name.lower()]
        a = next(alphas, a) if name.lower() in _USES_ALPHA else a
        b = next(betas, b) if name.lower() in _USES_BETA else b
        yield lambda x, function=function, a=a, b=b: function(x, a, b)  # type: ignore[misc]


def _one_direction(
    step: Step, gates: Gates, x: Tensor, lengths: Tensor | None, states: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the outputs (T, B, H) and the last states; a sequence that has ended keeps its state and gives zeros."""
    outputs = []
    for time, row in enumerate(x):
        new = step(gates, row, states)
        if lengths is not None:
            alive = (time < lengths).unsqueeze(-1)
            states = tuple(torch.where(alive, n, old) for n, old in zip(new, states, strict=True))
            outputs.append(torch.where(alive, new[0], 0))
        else:
            states = new
            outputs.append(new[0])
    return torch.stack(outputs) if outputs else x.new_zeros((0, x.shape[1], gates.hidden)), states


@dataclass(frozen=True)
class _Layer:
    """The inputs and attributes that the three operators share."""

    call: OpCall
    step: Step
    defaults: tuple[str, ...]
    direction: str
    layout: int
    activations: Sequence[str] | None
    alpha: Sequence[float] | None
    beta: Sequence[float] | None
    clip: float | None

    def run(
        self,
        x: Tensor,
        weights: tuple[Tensor, Tensor, Tensor | None],
        lengths: Tensor | None,
        initial: Sequence[Tensor | None],
        peepholes: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Run all directions; returns Y and the last states, in the layout of the node."""
        weight, recurrence, bias = weights
        if self.layout:
            x = x.transpose(0, 1)
        count = 2 if self.direction == "bidirectional" else 1
        names = list(self.activations or self.defaults * count)
        functions = list(_functions(names, self.alpha or (), self.beta or ()))
        size, batch = recurrence.shape[-1], x.shape[1]
        zeros = x.new_zeros((batch, size))
        sizes = torch.full((batch,), x.shape[0]) if lengths is None else lengths
        outputs, last = [], []
        for index in range(count):
            backward = self.direction == "reverse" or index == 1
            share = functions[index * len(self.defaults) : (index + 1) * len(self.defaults)]
            b = x.new_zeros(2 * weight.shape[1]) if bias is None else bias[index]
            p = None if peepholes is None else peepholes[index]
            gates = Gates(self.call, weight[index], recurrence[index], b, tuple(share), self.clip, p)
            start = tuple(zeros if s is None else (s[:, index] if self.layout else s[index]) for s in initial)
            rows = reverse_sequence(self.call, x, sizes) if backward else x
            y, states = _one_direction(self.step, gates, rows, lengths, start)
            outputs.append(reverse_sequence(self.call, y, sizes) if backward else y)
            last.append(states)
        stacked = torch.stack(outputs, 1)
        finals = [torch.stack(parts) for parts in zip(*last, strict=True)]
        if self.layout:
            return (stacked.permute(2, 0, 1, 3), *(one.transpose(0, 1) for one in finals))
        return (stacked, *finals)


def _lstm_step(input_forget: bool) -> Step:
    def step(gates: Gates, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = states
        from_input, from_state = gates.products(x, h)
        i, o, f, g = (a + b for a, b in zip(from_input, from_state, strict=True))
        p = None if gates.peepholes is None else torch.split(gates.peepholes, gates.hidden, -1)
        i = gates.act(0, i if p is None else i + p[0] * c)
        f = 1 - i if input_forget else gates.act(0, f if p is None else f + p[2] * c)
        c = gates.call.math.round(f * c + i * gates.act(1, g))
        o = gates.act(0, o if p is None else o + p[1] * c)
        return gates.call.math.round(o * gates.activations[2](c)), c

    return step


def _gru_step(linear_before_reset: bool) -> Step:
    def step(gates: Gates, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = states
        from_input, from_state = gates.products(x, h)
        z = gates.act(0, from_input[0] + from_state[0])
        r = gates.act(0, from_input[1] + from_state[1])
        if linear_before_reset:
            candidate = from_input[2] + r * from_state[2]
        else:
            candidate = from_input[2] + gates.products(x, r * h)[1][2]
        return (gates.call.math.round((1 - z) * gates.act(1, candidate) + z * h),)

    return step


def _rnn_step(gates: Gates, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    from_input, from_state = gates.products(x, states[0])
    return (gates.act(0, from_input[0] + from_state[0]),)


def _lengths(lengths: Tensor | None) -> Tensor | None:
    return None if lengths is None else torch.tensor(ints(lengths))


@operator("LSTM")
def lstm(
    call: OpCall,
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int = 0,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Long short-term memory; x (T, B, I), gates in the order input, output, forget, cell."""
    step, names = _lstm_step(bool(input_forget)), ("Sigmoid", "Tanh", "Tanh")
    layer = _Layer(call, step, names, direction, layout, activations, activation_alpha, activation_beta, clip)
    return layer.run(x, (weight, recurrence, bias), _lengths(lengths), (hidden, cell), peepholes)


@operator("GRU")
def gru(
    call: OpCall,
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int = 0,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """Gated recurrent unit; x (T, B, I), gates in the order update, reset, hidden."""
    step, names = _gru_step(bool(linear_before_reset)), ("Sigmoid", "Tanh")
    layer = _Layer(call, step, names, direction, layout, activations, activation_alpha, activation_beta, clip)
    return layer.run(x, (weight, recurrence, bias), _lengths(lengths), (hidden,))


@operator("RNN")
def rnn(
    call: OpCall,
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Elman network; x (T, B, I)."""
    layer = _Layer(call, _rnn_step, ("Tanh",), direction, layout, activations, activation_alpha, activation_beta, clip)
    return layer.run(x, (weight, recurrence, bias), _lengths(lengths), (hidden,))
