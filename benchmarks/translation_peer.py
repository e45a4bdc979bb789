"""A translator as one writes it in PyTorch: packed `nn.LSTM`, then `nn.LSTMCell` with attention in a loop."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from unrolled.convert import to_torch
from unrolled.data.subwords import PAD
from unrolled.nn.seq2seq import Seq2Seq
from unrolled.tasks.translate_config import TranslateConfig
from unrolled.tasks.translate_data import Batch

GATES: Final = "ifgo"
"""The order of torch's."""


class Peer(nn.Module):
    """The network of these settings: an LSTM in one layer, read both ways, with attention, tied vectors.

    Args:
        words: of the one vocabulary.
    """

    def __init__(self, words: int, config: TranslateConfig) -> None:
        super().__init__()
        E, H = config.embedding, config.hidden
        M = H + E * config.lexical
        self.inside, self.lexical = config.attention == "inside", config.lexical
        self.embed = nn.Embedding(words, E)
        self.encoder = nn.LSTM(E, H // 2, bidirectional=True)
        self.cell = nn.LSTMCell(E + M * self.inside, H)
        self.key = nn.Linear(M, H, bias=self.inside)
        if self.inside:
            self.query, self.score = nn.Linear(H, H, bias=False), nn.Linear(H, 1, bias=False)
        self.join = nn.Linear(H + M, E, bias=False)
        self.head = nn.Linear(E, words)
        self.head.weight = self.embed.weight
        self.drop = nn.Dropout(config.dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (T, B, V)."""
        x = self.drop(self.embed(batch.source))
        packed = pack_padded_sequence(x, batch.lengths, enforce_sorted=False)
        outputs, (h, c) = self.encoder(packed)
        values = pad_packed_sequence(outputs)[0]
        if self.lexical:
            values = torch.cat([values, x], -1)
        values = values.transpose(0, 1)
        closed = torch.arange(values.shape[1]) >= batch.lengths[:, None]
        keys = self.key(values)
        h, c = (torch.cat([state[0], state[1]], -1) for state in (h, c))
        features = []
        for y in self.drop(self.embed(batch.read)):
            if self.inside:
                z = self.look(h, keys, values, closed)
                h, c = self.cell(torch.cat([y, z], -1), (h, c))
            else:
                h, c = self.cell(y, (h, c))
                z = self.look(h, keys, values, closed)
            features.append(torch.tanh(self.join(torch.cat([h, z], -1))))
        found: Tensor = self.head(self.drop(torch.stack(features)))
        return found

    def look(self, h: Tensor, keys: Tensor, values: Tensor, closed: Tensor) -> Tensor:
        """What a state finds."""
        if self.inside:
            e = self.score(torch.tanh(keys + self.query(h)[:, None])).squeeze(-1)
        else:
            e = torch.bmm(keys, h[:, :, None]).squeeze(-1)
        weights = F.softmax(e.masked_fill(closed, -torch.inf), -1)
        return torch.bmm(weights[:, None], values).squeeze(1)

    def loss(self, batch: Batch, smoothing: float) -> Tensor:
        """The mean over all words."""
        logits = self(batch)
        return F.cross_entropy(
            logits.flatten(0, 1), batch.said.flatten(), ignore_index=PAD, label_smoothing=smoothing
        )


@torch.no_grad()
def peer_of(model: Seq2Seq, config: TranslateConfig) -> Peer:
    """The same network, with the same weights."""
    peer, decoder = Peer(model.decoder.words, config), model.decoder
    peer.embed.weight.copy_(model.embed.weight)
    peer.encoder.load_state_dict(to_torch(model.encoder).state_dict())
    if decoder.first is not None:
        own = decoder.first.parameters_by_name()
        reads = [torch.cat([own[f"{gate}.x"], own[f"{gate}.context"]], 1) for gate in GATES]
    else:
        assert decoder.upper is not None
        own = dict(decoder.upper.parameters_of("l0"))
        reads = [own[f"{gate}.x"] for gate in GATES]
    peer.cell.weight_ih.copy_(torch.cat(reads))
    peer.cell.weight_hh.copy_(torch.cat([own[f"{gate}.h"] for gate in GATES]))
    peer.cell.bias_ih.copy_(torch.cat([own[f"{gate}.bias"] for gate in GATES]))
    peer.cell.bias_hh.zero_()
    looks, join = decoder.looks, decoder.join
    assert looks is not None
    assert join is not None
    peer.key.load_state_dict(looks.key.state_dict())
    if peer.inside:
        peer.query.load_state_dict(looks.query.state_dict())
        peer.score.weight.copy_(looks.scores[None])
    peer.join.load_state_dict(join.state_dict())
    peer.head.bias.copy_(decoder.head.bias)
    return peer
