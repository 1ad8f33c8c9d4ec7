"""A shared prefix with branches through an SDPA mask, through a FlexAttention block mask, and each branch as a row of its own.

Legend: T tokens of the pack, N predicting positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedModel

from tests.gpu.small_llama import VOCABULARY_SIZE, relative_difference, small_llama

pytestmark = pytest.mark.gpu

NUM_PREFIX = 150
BRANCHES = (40, 75, 61)
LENGTH = 384  # a multiple of FlexAttention's block; what is left of the pack is padding
TOLERANCE = 5e-2  # bf16 rounding came to 0.01-0.02 in four layers, a wrong mask to 0.5


@dataclass(frozen=True, slots=True)
class Pack:
    """Branch 0 is the prefix, the last one padding. `predicting_N` are the positions whose next token is in their own branch."""

    input_ids_T: Tensor
    position_ids_T: Tensor
    branch_T: Tensor
    predicting_N: Tensor


@pytest.fixture
def pack() -> Pack:
    lengths = (*BRANCHES, LENGTH - NUM_PREFIX - sum(BRANCHES))
    branch_T = torch.tensor([0] * NUM_PREFIX + [number for number, n in enumerate(lengths, start=1) for _ in range(n)])
    positions = list(range(NUM_PREFIX)) + [NUM_PREFIX + index for n in lengths for index in range(n)]
    trained_T = (branch_T[:-1] == branch_T[1:]) & (branch_T[:-1] > 0) & (branch_T[:-1] <= len(BRANCHES))
    generator = torch.Generator().manual_seed(0)
    return Pack(
        input_ids_T=torch.randint(VOCABULARY_SIZE, (LENGTH,), generator=generator).cuda(),
        position_ids_T=torch.tensor(positions).cuda(),
        branch_T=branch_T.cuda(),
        predicting_N=trained_T.nonzero().flatten().cuda(),
    )


def test_both_masks_and_separate_rows_agree(pack: Pack) -> None:
    sdpa = small_llama(dtype=torch.bfloat16, attention="sdpa").cuda()
    flex = small_llama(dtype=torch.bfloat16, attention="flex_attention").cuda()
    by_sdpa_NV = _logits(sdpa, pack, _sdpa_mask(pack))
    by_flex_NV = _logits(flex, pack, _block_mask(pack))
    separate_NV = _separate_logits(sdpa, pack)
    assert relative_difference(by_sdpa_NV, separate_NV) < TOLERANCE
    assert relative_difference(by_flex_NV, separate_NV) < TOLERANCE
    assert relative_difference(by_flex_NV, by_sdpa_NV) < TOLERANCE

    losses_N = _losses(by_sdpa_NV, pack)
    torch.testing.assert_close(_losses(by_flex_NV, pack), losses_N, atol=0.1, rtol=0.0)
    assert _losses(by_flex_NV, pack).mean().item() == pytest.approx(losses_N.mean().item(), abs=1e-2)
    assert _losses(separate_NV, pack).mean().item() == pytest.approx(losses_N.mean().item(), abs=1e-2)


def test_both_masks_give_the_same_gradients(pack: Pack) -> None:
    sdpa = small_llama(dtype=torch.bfloat16, attention="sdpa").cuda()
    flex = small_llama(dtype=torch.bfloat16, attention="flex_attention").cuda()
    _losses(_logits(sdpa, pack, _sdpa_mask(pack)), pack).mean().backward()
    _losses(_logits(flex, pack, _block_mask(pack)), pack).mean().backward()
    expected = dict(sdpa.named_parameters())
    for name, weight in flex.named_parameters():
        gradient = expected[name].grad
        assert weight.grad is not None and gradient is not None
        assert relative_difference(weight.grad, gradient) < 0.1, name


def test_no_branch_sees_another(pack: Pack) -> None:
    flex = small_llama(dtype=torch.bfloat16, attention="flex_attention").cuda()
    before_NV = _logits(flex, pack, _block_mask(pack)).detach()
    pack.input_ids_T[pack.branch_T == 2] = (pack.input_ids_T[pack.branch_T == 2] + 1) % VOCABULARY_SIZE
    after_NV = _logits(flex, pack, _block_mask(pack)).detach()
    changed_N = (before_NV != after_NV).any(dim=1)
    assert torch.equal(changed_N, pack.branch_T[pack.predicting_N] == 2)


def _sdpa_mask(pack: Pack) -> Tensor:
    branch_T, order_T = pack.branch_T, torch.arange(LENGTH, device=pack.branch_T.device)
    causal_TT = order_T[None, :] <= order_T[:, None]
    visible_TT = (branch_T[None, :] == 0) | (branch_T[None, :] == branch_T[:, None])
    return (causal_TT & visible_TT)[None, None]


def _block_mask(pack: Pack) -> BlockMask:
    branch_T = pack.branch_T

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & ((branch_T[key] == 0) | (branch_T[key] == branch_T[query]))

    return create_block_mask(visible, B=None, H=None, Q_LEN=LENGTH, KV_LEN=LENGTH, device=str(branch_T.device))


def _logits(model: PreTrainedModel, pack: Pack, mask: Tensor | BlockMask) -> Tensor:
    logits_BTV: Tensor = model(
        input_ids=pack.input_ids_T[None], position_ids=pack.position_ids_T[None], attention_mask=mask, use_cache=False
    ).logits
    return logits_BTV[0, pack.predicting_N]


def _separate_logits(model: PreTrainedModel, pack: Pack) -> Tensor:
    """Prefix and branch as an ordinary causal row, one branch after the other."""
    rows = []
    for number in range(1, len(BRANCHES) + 1):
        ids_T = pack.input_ids_T[(pack.branch_T == 0) | (pack.branch_T == number)]
        rows.append(model(input_ids=ids_T[None], use_cache=False).logits[0, NUM_PREFIX:-1])
    return torch.cat(rows)


def _losses(logits_NV: Tensor, pack: Pack) -> Tensor:
    return torch.nn.functional.cross_entropy(
        logits_NV.float(), pack.input_ids_T[pack.predicting_N + 1], reduction="none"
    )
