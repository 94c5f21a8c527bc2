#!/usr/bin/env python3
"""Chain acceptance of FlashInfer and in PyTorch on our quick and full cases; run as pytorch.py is.

FlashInfer is a package beside PyTorch; where it is missing it is left out, and that is said.
"""

import pytorch
import torch
from decoding import compiled, differing, graphed, laws, pick
from pytorch import NotThisCase, function

ROWS = 100_000  # decided to compare a share of accepted drafts with its expectation


def chain_acceptance(optimize=lambda function: function):
    @optimize
    def decide(p, q, token, u):
        batch, k, _ = q.shape
        rows = torch.arange(batch, device=p.device)
        p_t, q_t = (x[:, :k].gather(2, token[:, :, None]).squeeze(2) for x in (p, q))
        count = (u * q_t < p_t).long().cumprod(1).sum(1)
        residual = (p[rows, count] - q[rows, count.clamp(max=k - 1)]).clamp(min=0)
        return count, torch.where(count[:, None] < k, residual, p[:, k])

    def run(p, q, token, u, sample_u):
        count, weights = decide(p, q, token, u)
        return torch.stack([count, pick(weights, sample_u)], 1)

    return run


def flashinfer(p, target, draft, token):
    """It draws its own uniforms, so what is compared is how often the first draft is accepted: E min(1, p/q)."""
    sample = function("flashinfer.sampling.chain_speculative_sampling")
    token = token.int()
    counters = [torch.zeros(p["batch"], dtype=torch.int32, device="cuda") for _ in range(2)]
    run = lambda: sample(draft, token, target, *counters, deterministic=True)

    def error():
        rounds = -(-ROWS // p["batch"])
        accepted = sum((run()[0][:, 0] == token[:, 0]).double().mean() for _ in range(rounds)) / rounds
        p_t, q_t = (x[:, 0].double().gather(1, token[:, :1].long()) for x in (target, draft))
        return abs(accepted - (p_t / q_t).clamp(max=1).mean()).item()

    return run, error


def acceptance_peers(op, p):
    if op != "acceptance.chain" or p.get("mode", "sample") != "sample" or p.get("lengths", "full") != "full":
        raise NotThisCase
    target, draft = laws(p, p["draft_len"] + 1)
    draft = draft[:, :-1].contiguous()
    token = torch.multinomial(draft.flatten(0, 1), 1).view(p["batch"], -1)
    rand = lambda *shape: torch.rand(*shape, device="cuda") * (1 - 2.0**-23)
    inputs = target, draft, token, rand(p["batch"], p["draft_len"]), rand(p["batch"])
    wrong = differing(chain_acceptance(), inputs)
    fast = graphed(lambda run=chain_acceptance(compiled): run(*inputs))
    for name, call in (("eager", lambda: chain_acceptance()(*inputs)), ("compile", fast)):
        yield name, call, lambda call=call: wrong(call())
    yield "peer:flashinfer", *flashinfer(p, target, draft, token)


if __name__ == "__main__":
    pytorch.PEERS = {"acceptance": acceptance_peers}
    pytorch.main()
