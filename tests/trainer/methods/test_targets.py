import pytest
from torch import nn

from trainer.job.networks import Waveft
from trainer.methods import registry, targets
from trainer.methods.tuning import Host
from trainer.system.errors import UserError


class Block(nn.Module):
    def __init__(self, width, context):
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([Block(8, 12), Block(16, 12)])
        self.mid = Block(16, 12)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"q_proj": nn.Linear(8, 8), "mlp": nn.Linear(8, 8)})])


def chosen(components=None, **network):
    components, network = components or {"unet": Unet()}, Waveft(**network)
    layers = targets.choose(components, network)
    counts = registry.of(network).counts([layer.layer for layer in layers])
    return {layer.path: (layer, count) for layer, count in zip(layers, counts, strict=True)}


def test_every_target_gets_the_fixed_p():
    found = chosen(coefficients=5)
    assert [*found] == [f"{block}.{name}" for block in ("down.0", "down.1", "mid") for name in ("to_q", "to_k")]
    assert {count for _, count in found.values()} == {5}
    assert found["down.0.to_k"][0].shape == (8, 12)


def test_include_and_exclude():
    assert [*chosen(include=["^down"], exclude=[r"to_k$"])] == ["down.0.to_q", "down.1.to_q"]
    with pytest.raises(UserError, match="expected to leave some"):
        chosen(exclude=["."])
    with pytest.raises(UserError, match=r"include: .*'\^donw' finds none.* looks like"):
        chosen(include=["^down", "^donw"])


def test_a_pattern_has_the_say_over_both_allocations():
    found = chosen(coefficients=5, coefficients_pattern={"^mid": 9, r"to_q$": 3})
    assert [count for _, count in found.values()] == [3, 5, 3, 5, 9, 9]
    network = Waveft(coefficients=5, coefficients_pattern={"^up": 1})
    with pytest.raises(UserError, match=r"coefficients_pattern: .*'\^up' finds none"):
        registry.of(network).attach(Host({"unet": Unet()}, False, 0, 1))


def test_proportional_follows_m_plus_n_and_keeps_the_sum():
    found = chosen(coefficients=100, allocation="proportional")
    sides = {"down.0.to_q": 16, "down.0.to_k": 20, "down.1.to_q": 32, "down.1.to_k": 28, "mid.to_q": 32, "mid.to_k": 28}
    mean = sum(sides.values()) / 6
    assert {path: count for path, (_, count) in found.items()} == {
        path: round(100 * side / mean) for path, side in sides.items()
    }
    assert abs(sum(count for _, count in found.values()) - 600) <= 3


def test_text_encoders_join_where_asked():
    components = {"unet": Unet(), "te1": Encoder(), "te2": Encoder()}
    found = chosen(components, train_text_encoder=True, include=["^te", "^mid"])
    assert [*found] == ["mid.to_q", "mid.to_k", "te1.layers.0.q_proj", "te2.layers.0.q_proj"]
    by_expression = chosen(components, train_text_encoder=True, targets=r"mid\.to_q")
    assert [*by_expression] == ["mid.to_q", "te1.layers.0.q_proj", "te2.layers.0.q_proj"]
