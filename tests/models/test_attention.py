import torch

from vla.models.action_expert import CrossAttentionExpert
from vla.models.attention import CrossBlock, SelfBlock, padding_mask, time_features


def test_padded_keys_change_nothing_for_real_queries():
    torch.manual_seed(0)
    block, x = SelfBlock(16, 2), torch.randn(1, 4, 16)
    mask = padding_mask(torch.tensor([[False, False, True, True]]))
    changed = x.clone()
    changed[:, 2:] = 100.0
    torch.testing.assert_close(block(x, mask)[:, :2], block(changed, mask)[:, :2])
    assert not torch.allclose(block(x, None)[:, :2], block(changed, None)[:, :2])


def test_a_context_without_any_real_key_gives_finite_numbers():
    block = CrossBlock(16, 2)
    mask = padding_mask(torch.ones(1, 3, dtype=torch.bool))
    assert torch.isfinite(block(torch.randn(1, 2, 16), torch.randn(1, 3, 16), mask)).all()


def test_attention_equals_the_plain_formula():
    torch.manual_seed(0)
    block = SelfBlock(8, 2)
    attention, x = block.attention, torch.randn(2, 3, 8)
    query = attention.query(x)
    key, value = attention.key_value(x).chunk(2, dim=-1)
    heads = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        weights = torch.softmax(query[..., part] @ key[..., part].transpose(1, 2) / 2.0, dim=-1)
        heads.append(weights @ value[..., part])
    torch.testing.assert_close(attention(x, x), attention.out(torch.cat(heads, dim=-1)), atol=1e-6, rtol=1e-5)


def test_time_features_tell_near_times_apart_and_stay_float32():
    features = time_features(torch.tensor([[0.5, 0.501]], dtype=torch.float64), 64)
    assert features.dtype == torch.float32
    assert (features[0, 0] - features[0, 1]).norm() > 0.5


def test_each_action_token_reacts_to_its_own_time():
    torch.manual_seed(0)
    expert = CrossAttentionExpert(action_dim=2, action_horizon=3, width=16, heads=2, layers=1)
    actions, context = torch.zeros(1, 3, 2), torch.randn(1, 4, 16)
    same = expert(actions, torch.full((1, 3), 0.5), context, None)
    moved = expert(actions, torch.tensor([[0.5, 0.5, 0.9]]), context, None)
    changes = (same - moved).abs().amax(dim=-1)[0]
    assert changes[2] > 0
    assert changes[2] > changes[0]
