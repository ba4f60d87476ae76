"""The paper's unsupervised models (section 2): an encoder LSTM, and decoders that reconstruct, predict, or both.

Shapes: T steps, B batch, D frame dimensions, H units. Time comes first: a batch of sequences is (T, B, D).
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.models.autoregression import Autoregression
from stages.models.config import CompositeSpec
from stages.models.feedback import Feedback
from stages.models.losses import decoder_loss
from stages.models.lstm import LSTM, PeepholeLayer, State, Trace, run_together, uniform_fan_in_
from stages.models.matmul import linear

MIN_MEAN = 1e-3
"""A pixel that is black in every training frame may yet be lit: its mean is taken to be at least this."""


class Outputs(NamedTuple):
    """The values of the decoders' output layers, (T, B, D) each: logits (bernoulli) or means (gaussian).

    None where there is no such decoder. `reconstruction` is in REVERSE order: its step t is frame T-1-t of the input.
    """

    reconstruction: Tensor | None
    prediction: Tensor | None


class Losses(NamedTuple):
    """Scalars, nats or squared error: summed over dimensions, averaged over sequences and that decoder's frames."""

    total: Tensor
    """The sum of the decoders' losses, which weigh the same: what is trained."""
    reconstruction: Tensor | None
    prediction: Tensor | None


class Decoder(nn.Module):
    """An LSTM that starts from the encoder's state, with an output matrix on its top layer."""

    def __init__(self, config: CompositeSpec, *, conditional: bool, autoregressive: bool = False) -> None:
        super().__init__()
        self.conditional = conditional
        self.residual = config.residual
        self.autoregression = Autoregression(config.num_frames_in, config.num_frames_out) if autoregressive else None
        self.is_bernoulli = config.loss == "bernoulli"
        self.lstm = LSTM(
            config.dim if conditional else 0,
            config.num_units,
            config.num_layers,
            dropout=config.dropout,
            forget_bias=config.forget_bias,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.num_units, config.dim)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew."""
        self.lstm.reset_parameters(generator)
        uniform_fan_in_(self.output.weight, generator)
        if self.residual:
            nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        if self.autoregression is not None:
            nn.init.zeros_(self.autoregression.weight)

    def forward(self, state: State, target_TBD: Tensor, x_TBD: Tensor, feedback: Feedback | None = None) -> Tensor:
        """Returns teacher-forced outputs (T, B, D).

        The decoder reads nothing at step 0, then, where it is conditional, the previous true frame.
        x_TBD: the frames that the encoder read. feedback: which of the previous frames are the decoder's own
        outputs instead, of earlier passes without gradient (`stages.models.feedback`).
        """
        base_TBD = self.base(x_TBD, len(target_TBD))
        return self._run(self.frames_to_read(state, target_TBD, base_TBD, feedback), state, len(target_TBD), base_TBD)

    def base(self, x_TBD: Tensor, num_steps: int) -> Tensor | None:
        """Returns what a residual model's outputs are added to, (num_steps, B, D); None where it is not residual.

        x_TBD: the frames read.
        """
        if not self.residual:
            return None
        if self.autoregression is None:
            return x_TBD[-1:].expand(num_steps, -1, -1)
        forecast_TBD: Tensor = self.autoregression(x_TBD, num_steps)
        return forecast_TBD

    def frames_to_read(
        self, state: State, target_TBD: Tensor, base_TBD: Tensor | None, feedback: Feedback | None
    ) -> Tensor | None:
        """Returns what `forward` reads at steps 1 to T - 1, (T - 1, B, D); None where it is not conditional."""
        if not self.conditional:
            return None
        previous_SBD = target_TBD[:-1]
        if feedback is None:
            return previous_SBD
        return feedback.mix(
            previous_SBD, lambda read_SBD: self.means(self._run(read_SBD[:-1], state, len(read_SBD), base_TBD))
        )

    def _run(self, previous_SBD: Tensor | None, state: State, num_steps: int, base_TBD: Tensor | None) -> Tensor:
        h_GTBH, _ = self.lstm(None if previous_SBD is None else previous_SBD[None], state, num_steps=num_steps)
        return self.read_out(self.dropout(h_GTBH[0]), base_TBD)

    def means(self, output: Tensor) -> Tensor:
        """Returns frames from outputs: the mean of the Bernoulli (sigmoid) or of the Gaussian (as it is)."""
        return output.sigmoid() if self.is_bernoulli else output

    def read_out(self, h_TBH: Tensor, base_TBD: Tensor | None) -> Tensor:
        """Returns outputs (T, B, D) of the top layer's h, added to the first T frames of `base`, if there is one."""
        output_TBD = linear(h_TBH, self.output.weight, self.output.bias)
        return output_TBD if base_TBD is None else output_TBD + base_TBD[: len(output_TBD)]


class Composite(nn.Module):
    """Encoder and decoders; they share no weights. Each decoder starts from the final state of every encoder layer."""

    def __init__(self, config: CompositeSpec) -> None:
        super().__init__()
        self.config = config
        self.encoder = LSTM(
            config.dim, config.num_units, config.num_layers, dropout=config.dropout, forget_bias=config.forget_bias
        )
        self.reconstruct_decoder = (
            Decoder(config, conditional=config.reconstruct_conditional) if config.reconstructs else None
        )
        self.predict_decoder = (
            Decoder(config, conditional=config.predict_conditional, autoregressive=config.autoregressive)
            if config.predicts
            else None
        )

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew."""
        self.encoder.reset_parameters(generator)
        for decoder in (self.reconstruct_decoder, self.predict_decoder):
            if decoder is not None:
                decoder.reset_parameters(generator)

    def reading_weights(self) -> list[nn.Parameter]:
        """Returns the weights through which conditional decoders read frames, (1, 4H, D) each."""
        decoders = (self.reconstruct_decoder, self.predict_decoder)
        layers = [decoder.lstm.layers[0] for decoder in decoders if decoder is not None]
        return [
            layer.input_weight
            for layer in layers
            if isinstance(layer, PeepholeLayer) and layer.input_weight is not None
        ]

    @torch.no_grad()
    def start_at_mean(self, mean_D: Tensor) -> None:
        """Sets the output biases to the natural parameter of a mean frame: its log-odds, or itself.

        A model that knows nothing yet then says the mean frame, and need not spend its first steps on learning it.
        """
        if self.config.loss == "bernoulli":
            mean_D = mean_D.clamp(MIN_MEAN, 1 - MIN_MEAN).logit()
        for decoder in (self.reconstruct_decoder, self.predict_decoder):
            if decoder is not None:
                decoder.output.bias.copy_(mean_D)

    def fit_autoregression(self, sequences: Iterable[Tensor]) -> None:
        """Sets the autoregression, if there is one, to the least squares of training sequences (T, B, D)."""
        if self.predict_decoder is not None and self.predict_decoder.autoregression is not None:
            self.predict_decoder.autoregression.fit(sequences)

    def encode(self, x_TBD: Tensor) -> State:
        """Returns the representation of each sequence: final h and c, (1, B, H), of every layer, lowest first."""
        state: State = self.encoder(x_TBD[None])[1]
        return state

    def forward(self, x_TBD: Tensor, future_TBD: Tensor | None = None, feedback: Feedback | None = None) -> Outputs:
        """Returns teacher-forced outputs for the input's reconstruction and for its future.

        x_TBD: frames to encode. future_TBD: the true frames after them; needed where there is a future decoder.
        feedback: which frames conditional decoders read from themselves; None: none.
        The outputs are natural parameters: `means` turns them into frames, `losses` into losses.
        """
        if self.predict_decoder is not None and future_TBD is None:
            raise ValueError("this model predicts: give forward() the frames after x, or use open_loop()")
        state = self.encode(x_TBD)
        present: list[tuple[Decoder, Tensor]] = []
        if self.reconstruct_decoder is not None:
            # An unconditional decoder takes no more from its target than the number of steps.
            target_TBD = x_TBD.flip(0) if self.reconstruct_decoder.conditional else x_TBD
            present.append((self.reconstruct_decoder, target_TBD))
        if self.predict_decoder is not None and future_TBD is not None:
            present.append((self.predict_decoder, future_TBD))
        if self.training and self.config.dropout:
            outputs = [decoder(state, target_TBD, x_TBD, feedback) for decoder, target_TBD in present]
        else:
            outputs = self._side_by_side(present, state, x_TBD, feedback)
        reconstruction = outputs.pop(0) if self.reconstruct_decoder is not None else None
        return Outputs(reconstruction, outputs.pop(0) if self.predict_decoder is not None else None)

    def _side_by_side(
        self, decoders: list[tuple[Decoder, Tensor]], state: State, x_TBD: Tensor, feedback: Feedback | None
    ) -> list[Tensor]:
        """Returns the outputs of each decoder for its target; their recurrences run at the same time."""
        planned, bases = [], []
        for decoder, target_TBD in decoders:
            bases.append(decoder.base(x_TBD, len(target_TBD)))
            read_SBD = decoder.frames_to_read(state, target_TBD, bases[-1], feedback)
            x_GSBD = None if read_SBD is None else read_SBD[None]
            planned.append(decoder.lstm.plan(x_GSBD, state, len(target_TBD)))
        results = run_together(planned, decoders[0][0].lstm.dtype)
        return [
            decoder.read_out(h_GTBH[0], base_TBD)
            for (decoder, _), base_TBD, (h_GTBH, _) in zip(decoders, bases, results, strict=True)
        ]

    def losses(self, outputs: Outputs, x_TBD: Tensor, future_TBD: Tensor | None = None) -> Losses:
        """Returns each decoder's loss and their sum. Gradients flow into `outputs`, not into the frames."""
        reconstruction = prediction = None
        if outputs.reconstruction is not None:
            reconstruction = decoder_loss(outputs.reconstruction, x_TBD, self.config.loss, reverse=True)
        if outputs.prediction is not None:
            assert future_TBD is not None, "a prediction is judged against the frames after x"
            prediction = decoder_loss(outputs.prediction, future_TBD, self.config.loss)
        present = [part for part in (reconstruction, prediction) if part is not None]
        return Losses(torch.stack(present).sum(), reconstruction, prediction)

    def means(self, output: Tensor) -> Tensor:
        """Returns frames from a decoder's outputs: the mean of the Bernoulli (sigmoid) or of the Gaussian (as is)."""
        return output.sigmoid() if self.config.loss == "bernoulli" else output

    @torch.no_grad()
    def open_loop(self, x_TBD: Tensor, num_steps: int | None = None) -> Outputs:
        """Returns the outputs of decoders that see no true frame: a conditional one reads its own.

        Like those of `forward` they are natural parameters, so that `losses` takes them: from a logit the cross-entropy
        of a sure and wrong pixel is exact, where its probability has been rounded to 0 or 1.

        num_steps: frames to predict; default `config.num_frames_out`, and with 0 no prediction.
        """
        state = self.encode(x_TBD)
        num_steps = self.config.num_frames_out if num_steps is None else num_steps
        reconstruction = prediction = None
        if self.reconstruct_decoder is not None:
            reconstruction, _ = self._run(self.reconstruct_decoder, state, x_TBD, len(x_TBD))
        if self.predict_decoder is not None and num_steps:
            prediction, _ = self._run(self.predict_decoder, state, x_TBD, num_steps)
        return Outputs(reconstruction, prediction)

    def open_loop_means(self, x_TBD: Tensor, num_steps: int | None = None) -> Outputs:
        """Returns the frames of `open_loop`: the means of its outputs, the reconstruction in REVERSE order."""
        parts = self.open_loop(x_TBD, num_steps)
        return Outputs(*(None if part is None else self.means(part) for part in parts))

    @torch.no_grad()
    def extrapolate_with_traces(self, x_TBD: Tensor, num_steps: int) -> tuple[Tensor, tuple[Trace, ...]]:
        """Predicts the next frames, (num_steps, B, D) means; and for each layer a Trace of (1, num_steps, B, H)."""
        if self.predict_decoder is None:
            raise ValueError("an autoencoder has no future decoder: train decoders=future or composite")
        output_TBD, traces = self._run(self.predict_decoder, self.encode(x_TBD), x_TBD, num_steps)
        return self.means(output_TBD), traces

    def _run(self, decoder: Decoder, state: State, x_TBD: Tensor, num_steps: int) -> tuple[Tensor, tuple[Trace, ...]]:
        """Returns outputs (T, B, D), natural parameters; a conditional decoder reads their means."""
        base_TBD = decoder.base(x_TBD, num_steps)
        if not decoder.conditional:
            traces, _ = decoder.lstm.trace(None, state, num_steps=num_steps)
            return decoder.read_out(traces[-1].h[0], base_TBD), traces
        outputs: list[Tensor] = []
        steps: list[tuple[Trace, ...]] = []
        for step in range(num_steps):
            previous_GSBD = self.means(outputs[-1])[None] if outputs else None
            traces, state = decoder.lstm.trace(previous_GSBD, state, num_steps=1)
            outputs.append(decoder.read_out(traces[-1].h[0], None if base_TBD is None else base_TBD[step:]))
            steps.append(traces)
        layers = zip(*steps, strict=True)
        return torch.cat(outputs), tuple(
            Trace(*(torch.cat(parts, 1) for parts in zip(*layer, strict=True))) for layer in layers
        )
