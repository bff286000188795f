"""Torch modules of a user's own: a recommender, a classifier of torch's encoder layers, a decoder by hand, and attention that is named."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flowgraph as fg
from flowgraph.errors import ArchitectureError, ArgumentError, UnsupportedReadingError

IDS = [5, 17, 29, 41, 33, 8]


class SASRec(nn.Module):
    """A recommender of the next item from the items before, laid out as SASRec (Kang & McAuley 2018)."""

    def __init__(self, n_items=60, length=20, d=32, heads=2, layers=2):
        super().__init__()
        self.items = nn.Embedding(n_items, d, padding_idx=0)
        self.places = nn.Embedding(length, d)
        self.dropout = nn.Dropout(0.2)
        self.blocks = nn.ModuleList(SASRecBlock(d, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(d, eps=1e-8)

    def forward(self, items: Tensor) -> Tensor:
        places = torch.arange(items.shape[1], device=items.device)
        x = self.dropout(self.items(items) * math.sqrt(self.items.embedding_dim) + self.places(places))
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.items.weight.T


class SASRecBlock(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.attention_norm = nn.LayerNorm(d, eps=1e-8)
        self.attention = nn.MultiheadAttention(d, heads, dropout=0.2, batch_first=True)
        self.mlp_norm = nn.LayerNorm(d, eps=1e-8)
        # As wide as the states, as published.
        self.up, self.act, self.down = nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        reads = self.attention_norm(x)
        x = x + self.attention(reads, reads, reads, attn_mask=later, need_weights=False)[0]
        return x + self.down(self.act(self.up(self.mlp_norm(x))))


class Classifier(nn.Module):
    """Classes of a text from torch's own encoder."""

    def __init__(self, *, norm_first=False, batch_first=True):
        super().__init__()
        self.words, self.places = nn.Embedding(50, 32), nn.Embedding(30, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first, norm_first=norm_first, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classes, self.batch_first = nn.Linear(32, 3), batch_first

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        x = self.encoder(x) if self.batch_first else self.encoder(x.transpose(0, 1)).transpose(0, 1)
        return self.classes(x.mean(1))


class Decoder(nn.Module):
    """A small GPT by hand; ``attention`` makes its attention."""

    def __init__(self, attention, layers=3):
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 32), nn.Embedding(40, 32)
        self.blocks = nn.ModuleList(DecoderBlock(attention()) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 50, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class DecoderBlock(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(32), attention, nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class BySoftmax(nn.Module):
    """Attention as one writes it down."""

    def __init__(self):
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(32, 32) for _ in range(4))
        self.weights = nn.Identity()

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(w(x).unflatten(-1, (4, 8)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        scores = (q @ k.transpose(-1, -2) / math.sqrt(8)).masked_fill(later(x), -torch.inf)
        return self.wo((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class InOne(BySoftmax):
    """Attention in one function of torch."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        z = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.wo(z.transpose(1, 2).flatten(2))


class ByHand(BySoftmax):
    """Attention by exponentials and a sum, which is not followed."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        grown = (torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(8)).exp() * ~later(x)
        pattern = self.weights(grown / grown.sum(-1, keepdim=True))
        return self.wo(torch.einsum("bhqk,bhkd->bqhd", pattern, v).flatten(2))


class Returning(ByHand):
    """The same, which returns its pattern beside its output."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.heads(x)
        grown = (torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(8)).exp() * ~later(x)
        pattern = grown / grown.sum(-1, keepdim=True)
        return self.wo(torch.einsum("bhqk,bhkd->bqhd", pattern, v).flatten(2)), pattern


class OfReturning(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Returning()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class Wrong(ByHand):
    """Attention whose queries are turned after the module that is named for them."""

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        q, k, v = super().heads(x)
        return q + 0.3 * q.roll(1, -1), k, v


def later(x: Tensor) -> Tensor:
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)


def noisy(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def check_full(module: nn.Module) -> fg.LoadedModel:
    loaded = fg.load_model(module)
    assert loaded.level == "full", loaded.anatomy.stack.reason
    assert max(loaded.proof.values()) < 1e-5, loaded.proof
    for ids in ([7], IDS, [n % 50 for n in range(3, 20)]):
        trace = fg.trace(loaded, ids, position=len(ids) - 1)
        with torch.no_grad():
            said = module(torch.tensor([ids]))[0, -1]
        torch.testing.assert_close(trace.logits, said, rtol=1e-4, atol=1e-4)
        assert fg.direct_logit_attribution(trace).completeness_error < 1e-5
    assert fg.mass(fg.build_graph(fg.trace(loaded, IDS), method="proximity", readings=False)) == pytest.approx(1.0)
    return loaded


# Three models that open by themselves


def test_a_recommender_opens_whole_and_its_readings_are_items():
    module = noisy(SASRec())
    loaded = check_full(module)
    assert repr(loaded).startswith("LoadedModel('SASRec', family 'SASRec', 2 layers × 2 heads")
    assert loaded.anatomy.embedding_scale == pytest.approx(math.sqrt(32))
    assert (loaded.anatomy.causal, loaded.anatomy.wiring) == (True, "sequential")
    # A head that is set to zero is one that the output projection does not read.
    ablated = fg.ablate(loaded, IDS, [fg.Node("head", 1, head=0)], how="zero", target=9, metric=fg.log_probability)
    with torch.no_grad():
        before = module(torch.tensor([IDS]))[0, -1].log_softmax(-1)[9]
        kept = module.blocks[1].attention.out_proj.weight.clone()
        module.blocks[1].attention.out_proj.weight[:, :16] = 0
        after = module(torch.tensor([IDS]))[0, -1].log_softmax(-1)[9]
        module.blocks[1].attention.out_proj.weight.copy_(kept)
    assert float(np.ravel(ablated.effect)[0]) == pytest.approx(float(after - before), rel=1e-3, abs=1e-4)


def test_patterns_of_torchs_layer_are_those_that_it_returns():
    module = noisy(SASRec())
    trace = fg.trace(module, IDS)
    with torch.no_grad():
        x = module.items(torch.tensor([IDS])) * math.sqrt(32) + module.places(torch.arange(len(IDS)))
        for n, block in enumerate(module.blocks):
            reads = block.attention_norm(x)
            out, weights = block.attention(
                reads, reads, reads, attn_mask=later(x), need_weights=True, average_attn_weights=False
            )
            torch.testing.assert_close(trace.pattern[n], weights[0], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(trace.attn_out[n], out[0], rtol=1e-4, atol=1e-5)
            x = block(x)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_classifier_of_torchs_encoder_reaches_the_stream(norm_first, batch_first):
    module = noisy(Classifier(norm_first=norm_first, batch_first=batch_first))
    loaded = fg.load_model(module)
    assert loaded.level == "stream"
    assert max(loaded.proof.values()) < 1e-5, loaded.proof
    assert (loaded.anatomy.causal, loaded.anatomy.wiring) == (False, "sequential" if norm_first else "post_norm")
    trace = fg.trace(loaded, IDS)
    assert trace.pattern.shape == (2, 4, len(IDS), len(IDS))
    assert fg.mass(fg.build_graph(trace, method="norms", readings=False)) == pytest.approx(1.0)
    with pytest.raises(UnsupportedReadingError, match="has no head over a vocabulary"):
        fg.direct_logit_attribution(trace)


@pytest.mark.parametrize("attention", [BySoftmax, InOne])
def test_a_decoder_by_hand_opens_whole(attention):
    module = noisy(Decoder(attention))
    loaded = check_full(module)
    assert loaded.anatomy.has_neurons
    assert loaded.anatomy.has_projections
    assert fg.gradients(loaded, IDS)
    # The row that was found is one that can be registered.
    family = loaded.anatomy.family
    assert isinstance(family, fg.Family)
    assert family.found


def test_loading_leaves_the_module_alone():
    module = noisy(SASRec())
    module.train()
    names = [name for name, _ in module.named_modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    loaded = fg.load_model(module)
    fg.trace(loaded, IDS)
    assert [name for name, _ in module.named_modules()] == names
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(part.training for part in module.modules())
    assert all("forward" not in part.__dict__ for part in module.modules())
    assert not [hook for part in module.modules() for hook in (*part._forward_hooks, *part._forward_pre_hooks)]
    assert torch.backends.mha.get_fastpath_enabled()
    # Twice is one model with one lock.
    assert fg.load_model(module).model is loaded.model


def test_another_thread_runs_torchs_layer_as_ever():
    module = noisy(Classifier())
    with torch.no_grad():
        expected = module(torch.tensor([IDS]))
    loaded, found = fg.load_model(module), []

    def beside() -> None:
        with torch.no_grad():
            found.extend(module(torch.tensor([IDS])) for _ in range(30))

    thread = threading.Thread(target=beside)
    thread.start()
    for _ in range(10):
        fg.trace(loaded, IDS)
    thread.join()
    for one in found:
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5)


# Attention that is named


@pytest.fixture
def registry(monkeypatch):
    from flowgraph.models import registered

    monkeypatch.setattr(registered, "_REGISTERED", {})


NAMES = {"q": "wq", "k": "wk", "v": "wv", "output": "wo"}


@pytest.mark.usefixtures("registry")
def test_attention_that_cannot_be_followed_is_named():
    module = noisy(Decoder(ByHand))
    # Without names its attention is a mixer of tokens like any other.
    unnamed = fg.load_model(module)
    assert not unnamed.anatomy.attending
    assert unnamed.anatomy.has_mixers
    fg.register_attention(ByHand, **NAMES, pattern="weights")
    loaded = check_full(module)
    assert loaded.anatomy.blocks[0].scale == pytest.approx(1 / math.sqrt(8), rel=1e-4)
    effect = fg.ablate(loaded, IDS, [fg.Node("head", 1, head=0)]).effect
    assert np.isfinite(effect).all()
    # The same numbers as of the same attention written with a softmax.
    twin = Decoder(BySoftmax).eval()
    twin.load_state_dict(module.state_dict())
    one, other = fg.trace(loaded, IDS), fg.trace(twin, IDS)
    for site in ("pattern", "q", "k", "v", "z", "resid_post"):
        torch.testing.assert_close(one.sites[site], other.sites[site], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("registry")
def test_a_pattern_that_is_returned_is_named_by_its_number():
    fg.register_attention(Returning, **NAMES, pattern=1)
    check_full(noisy(Decoder(OfReturning)))


@pytest.mark.usefixtures("registry")
def test_a_wrong_name_is_refused_by_the_proof():
    fg.register_attention(Wrong, **NAMES, pattern="weights")
    with pytest.raises(ArchitectureError, match="softmax"):
        fg.load_model(noisy(Decoder(Wrong)))
    fg.register_attention(ByHand, **NAMES | {"v": "wk"}, pattern="weights")
    with pytest.raises(ArchitectureError, match="pattern · v"):
        fg.load_model(noisy(Decoder(ByHand)))


@pytest.mark.usefixtures("registry")
def test_names_that_lead_nowhere():
    fg.register_attention(ByHand, **NAMES | {"q": "query"}, pattern="weights")
    with pytest.raises(
        ArchitectureError, match=r"registered with q='query', and has no module of this name; it has wq, wk"
    ):
        fg.load_model(noisy(Decoder(ByHand)))
    with pytest.raises(ArgumentError, match="ByHand is already registered"):
        fg.register_attention(ByHand, **NAMES, pattern="weights")
    fg.register_attention(ByHand, **NAMES, pattern=3, replace_existing=True)
    with pytest.raises(ArchitectureError):
        fg.load_model(noisy(Decoder(ByHand)))


# Modules that cannot be opened


class TwoInputs(nn.Module):
    def forward(self, ids: Tensor, times: Tensor) -> Tensor:
        return ids + times


class OfStates(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, states: Tensor) -> Tensor:
        return self.linear(states)


class WithoutTable(OfStates):
    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(nn.functional.one_hot(ids, 4).float())


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (TwoInputs(), r"TwoInputs\.forward needs ids, times; .* token ids alone"),
        (OfStates(), r"OfStates fails on three token ids \[1, 3\]"),
        (WithoutTable(), r"no nn\.Embedding of WithoutTable reads the ids"),
        (nn.Linear(3, 3), r"Linear fails on three token ids"),
    ],
)
def test_modules_that_take_something_else(module, said):
    with pytest.raises(ArchitectureError, match=said):
        fg.load_model(module)


def test_a_module_that_does_not_attend_and_adds_up_to_nothing():
    with pytest.raises(ArchitectureError, match="are not found"):
        fg.load_model(nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50)))


class Mixing(nn.Module):
    """Tokens mixed by normalised ReLU, or by softmax."""

    def __init__(self, is_softmax):
        super().__init__()
        self.is_softmax = is_softmax
        self.read, self.write = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.read(x).split(16, -1)
        scores = q @ k.transpose(-1, -2) / 4
        if self.is_softmax:
            later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            return self.write(scores.masked_fill(later, float("-inf")).softmax(-1) @ v)
        weights = torch.relu(scores).tril() + 1e-6
        return self.write(weights / weights.sum(-1, keepdim=True) @ v)


class WrittenOut(nn.Module):
    """A block whose MLP is no module."""

    def __init__(self, is_softmax):
        super().__init__()
        self.first, self.mixing, self.second = nn.LayerNorm(16), Mixing(is_softmax), nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        x = x + self.mixing(self.first(x))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class OfBlocks(nn.Module):
    def __init__(self, *kinds):
        super().__init__()
        self.items, self.norm = nn.Embedding(40, 16), nn.LayerNorm(16)
        self.blocks = nn.ModuleList(WrittenOut(one) for one in kinds)

    def forward(self, items):
        x = self.items(items)
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.items.weight.T


def test_layers_that_cannot_be_followed_are_named():
    torch.manual_seed(0)
    with pytest.warns(
        UserWarning, match=r"of blocks module\.blocks\[2\] \(the layers here are module\.blocks\[0, 1, 3\]\)"
    ):
        loaded = fg.load_model(OfBlocks(True, True, False, True).eval())
    assert loaded.level == "patterns"
    with pytest.raises(
        ArchitectureError, match=r"register_family\. Nor .* flowgraph\.register_attention names them"
    ) as error:
        fg.load_model(OfBlocks(False, False).eval())
    assert "without attention" not in str(error.value)
