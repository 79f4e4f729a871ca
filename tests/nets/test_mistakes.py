"""What nets, readouts and generation answer to arguments and inputs that do not fit."""

import numpy as np
import pytest
import torch
from torch import nn

from tokennet import Attention, MeanReadout, Residual, TokenNet, Tokens, TokenWise
from tokennet.models import gpt, vit
from tokennet.nets import IOSpec, build_net, mlp
from tokennet.positional import laplacian_eigenvectors
from tokennet.tokenizers import Patches


def bad(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_messages_name_the_argument_at_construction():
    bad(lambda: Residual(None), TypeError, "layer must be a TokenLayer")
    bad(lambda: Residual(nn.Linear(8, 8)), TypeError, "layer must be a TokenLayer .*Linear")
    bad(lambda: Residual(TokenNet([], MeanReadout(8, 2))), ValueError, "layer must return tokens")
    bad(lambda: TokenWise("abc"), TypeError, "fn must be a function, .*, got 'abc'")
    bad(lambda: mlp(8, activation=int), TypeError, "activation must be a function")
    bad(lambda: gpt(8, 8, 1, 2, mixer=nn.Linear), TypeError, "mixer must be a function")
    bad(lambda: IOSpec(None, None), TypeError, "in_features must be an int, got None")
    bad(lambda: IOSpec(in_features=0, out_features=2), ValueError, "in_features must be at least")
    bad(lambda: IOSpec(3, 2, readout="tokens"), ValueError, "readout must .* did you mean token")
    bad(lambda: build_net("mean", {"in_features": 3}, 8), TypeError, "spec must be an IOSpec")
    bad(lambda: build_net("mlp", IOSpec(3, 2), 8), ValueError, "num_tokens must be given")
    bad(lambda: vit(heads=3), TypeError, "'heads'; did you mean num_heads")
    bad(lambda: laplacian_eigenvectors(None, 2), TypeError, "graph must be a token graph")


def test_tokens_of_another_width_or_dtype():
    net = build_net("attention", IOSpec(in_features=3, out_features=2), dim=8)
    wrong = r"tokens must have 3 channels, got shape \(5, 4\)"
    bad(lambda: net(torch.ones(5, 4)), ValueError, wrong)
    wrong = "tokens must have the dtype of .* torch.float32, got torch.float64; write tokens.to"
    bad(lambda: net(torch.ones(5, 3).double()), TypeError, wrong)
    patches = vit(12, 3, num_tokens=16, dim=16, depth=1, num_heads=2)
    image = torch.randint(0, 255, (1, 3, 8, 8), dtype=torch.uint8)
    bad(lambda: patches(Patches(2)(image)), TypeError, "got torch.uint8; write tokens.to")
    small = TokenNet([Attention(8)], MeanReadout(4, 2))
    bad(lambda: small(torch.ones(3, 8)), ValueError, "tokens must have 4 channels")


def test_a_readout_takes_a_tensor_as_one_set():
    readout, z = MeanReadout(4, 2), torch.randn(3, 4)
    assert torch.equal(readout(z), readout(Tokens(z)))


def test_prompts_of_numpy_and_no_prompts():
    net = gpt(vocab=5, dim=8, depth=1, num_heads=2, max_length=20)
    one = net.generate([1, 2], 2)
    assert torch.equal(net.generate(np.array([1, 2]), np.int64(2)), one)
    assert torch.equal(net.generate([np.array([1, 2]), [1]], 2)[0], one)
    assert len(net.generate(torch.zeros(0, 3, dtype=torch.long), 2)) == 0
    assert net.generate([], 2) == []
    for prompt, error in (
        ("ab", TypeError),
        (None, TypeError),
        (3, TypeError),
        ([1.5], ValueError),
    ):
        bad(lambda given=prompt: net.generate(given, 2), error, "prompt must be")


def test_sets_that_do_not_agree_are_shown():
    sets = [torch.ones(2, 8), torch.ones(3, 8), torch.ones(2, 7)]
    wrong = r"sets\[0\] has shape \(2, 8\), sets\[2\] has shape \(2, 7\)"
    bad(lambda: Tokens.batch(sets), ValueError, wrong)
