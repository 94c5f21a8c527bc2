#!/usr/bin/env python3
"""Tree, typical and block acceptance in PyTorch on our quick and full cases, eager and compiled; run as pytorch.py is."""

import pytorch
import torch
from pytorch import NotThisCase

LEFT = 2.0**-20


def grown(nodes, confidence):
    """Parents of a tree grown node by node where a path is most likely (reference/src/decoding/topology.rs)."""
    parents, grown = [-1], [[1.0, confidence(), 0]]
    likely = lambda g: g[0] * g[1] * 0.6 / (1 + g[2]) ** 1.2
    while len(parents) < nodes:
        parent = max(range(len(grown)), key=lambda i: likely(grown[i]))
        value = likely(grown[parent])
        grown[parent][2] += 1
        grown.append([value, confidence(), 0])
        parents.append(parent)
    return parents


def topology(p):
    shape, nodes = p.get("shape", "sparse"), p["nodes"]
    if shape == "dynamic":
        count = 1 + int(torch.randint(nodes, ()).item())
        return grown(count, lambda: 0.2 + 1.2 * torch.rand(()).item())
    rule = {"chain": lambda i: i - 1, "star": lambda i: 0, "binary": lambda i: (i - 1) // 2}.get(shape)
    return [-1] + [rule(i) for i in range(1, nodes)] if rule else grown(nodes, lambda: 1.0)


def laws(p, positions):
    """p and q [batch, positions, vocab]: heavy-tailed weights in random order, q near p or far from it."""
    if p.get("mass", "zipf") != "zipf" or p.get("draws", "fair") != "fair":
        raise NotThisCase
    make = lambda: 1 / (1 + p["vocab"] * torch.rand(p["batch"], positions, p["vocab"], device="cuda"))
    target, other = (w / w.sum(-1, keepdim=True) for w in (make(), make()))
    draft = {"near": 0.7 * target + 0.3 * other, "far": other, "same": target}[p.get("relation", "near")]
    return target, draft


def trees(p, target, draft, drafts):
    """Tokens, first children, next siblings and parents [batch, nodes]; depth and most children of any row."""
    nodes, (depth, width) = p["nodes"], (0, 0)
    token, first, sibling, parents = (torch.full((p["batch"], nodes), -1) for _ in range(4))
    for row in range(p["batch"]):
        parent_of = topology(p)
        parents[row, : len(parent_of)] = torch.tensor(parent_of)
        depths = [0] * len(parent_of)
        for node in range(len(parent_of)):
            children = [i for i, parent in enumerate(parent_of) if parent == node]
            if not children:
                continue
            q = draft[row, node]
            if drafts == "top":
                drawn = q.topk(len(children)).indices
            else:
                drawn = torch.multinomial(q, len(children), replacement=drafts == "independent")
            token[row, children] = drawn.cpu()
            first[row, node] = children[0]
            for a, b in zip(children, children[1:]):
                sibling[row, a] = b
            for child in children:
                depths[child] = depths[node] + 1
            width = max(width, len(children))
        depth = max(depth, *depths)
    return [t.cuda() for t in (token, first, sibling, parents)], depth, width


def pick(weights, u):
    """The first token at which the running sum of the weights exceeds u times their sum. Never compiled: the compiler of
    PyTorch 2.11 fails on running sums of several long rows."""
    running = weights.cumsum(-1)
    token = torch.searchsorted(running, u[:, None] * running[:, -1:], right=True).squeeze(-1)
    return token.clamp(max=weights.shape[1] - 1)


def tree_level(width, drafts):
    """Decides the children of one node of each row: the child accepted (-1: none), c, and the tokens rejected by `top`.
    Every row takes every step, since none can be left early."""

    def level(at_p, at_q, token, sibling, u, child, alive):
        rows = torch.arange(at_p.shape[0], device=at_p.device)
        one = torch.ones_like(at_p[:, 0])
        c, s, left, chosen, taken = 0 * one, one, one, torch.full_like(child, -1), []
        for _ in range(width):
            open_ = alive & (child >= 0) & (chosen < 0)
            here = child.clamp(min=0)
            t = token[rows, here].clamp(min=0)
            p_t, q_t, u_t = at_p[rows, t], at_q[rows, t], u[rows, here]
            if drafts == "top":
                accept = open_ & (u_t * left < p_t)
                left = torch.where(open_ & ~accept, left - p_t, left)
                taken.append(torch.where(open_ & ~accept, t, -1))
            else:
                open_ = open_ & (left > LEFT)
                accept = open_ & ((c + u_t * s) * q_t < p_t)
                reject = open_ & ~accept
                if drafts == "distinct":
                    left = torch.where(reject, left - q_t, left)
                c = torch.where(reject, c + s, c)
                s = torch.where(reject, (at_p - c[:, None] * at_q).clamp(min=0).sum(-1) / left, s)
            chosen = torch.where(accept, child, chosen)
            child = torch.where(child >= 0, sibling[rows, here], child)
        return chosen, c, torch.stack(taken, 1) if taken else chosen[:, None]

    return level


def tree_acceptance(depth, width, drafts, optimize=lambda function: function):
    """The rule of decoding.tree for a whole batch; `optimize` compiles what is done at each depth."""
    level = optimize(tree_level(width, drafts))

    @optimize
    def left_over(at_p, at_q, c, rejected):
        if drafts == "top":
            for i in range(rejected.shape[1]):
                at_p = at_p.masked_fill(torch.arange(at_p.shape[1], device=at_p.device) == rejected[:, i : i + 1], 0)
        else:
            at_p = (at_p - c[:, None] * at_q).clamp(min=0)
        return at_p

    def run(p, q, token, first, sibling, u, sample_u):
        rows = torch.arange(p.shape[0], device=p.device)
        node = torch.zeros_like(rows)
        alive, emitted, ends = node == 0, [], None
        for _ in range(depth + 1):
            chosen, *end = level(p[rows, node], q[rows, node], token, sibling, u, first[rows, node], alive)
            ends = end if ends is None else [
                torch.where(alive.view(-1, *[1] * (new.dim() - 1)), new, old) for new, old in zip(end, ends)
            ]
            alive = alive & (chosen >= 0)
            node = torch.where(alive, chosen, node)
            emitted.append(torch.where(alive, token[rows, node], -1))
        return torch.stack(emitted + [pick(left_over(p[rows, node], q[rows, node], *ends), sample_u)], 1)

    return run


def typical_acceptance(depth, epsilon, delta):
    def run(p, token, parents):
        batch, nodes, _ = p.shape
        rows = torch.arange(batch, device=p.device)[:, None]
        entropy = -torch.special.xlogy(p, p).sum(-1)
        above = parents.clamp(min=0)
        likely = p[rows, above, token.clamp(min=0)]
        threshold = (delta * torch.exp(-entropy[rows, above])).clamp(max=epsilon)
        own = (likely > threshold) & (parents >= 0)
        reached = torch.zeros(batch, nodes, dtype=torch.long, device=p.device)
        worth, alive, at = torch.ones_like(likely), torch.ones_like(own), torch.arange(nodes, device=p.device).expand(batch, nodes)
        for _ in range(depth):
            inside = at > 0
            alive = alive & (own[rows, at] | ~inside)
            worth = worth * torch.where(inside, likely[rows, at], 1)
            reached = reached + inside
            at = torch.where(inside, above[rows, at], at)
        score = torch.where(alive, reached + worth, 0)
        best = score.argmax(1)
        return torch.stack([best, p[rows[:, 0], best].argmax(-1)], 1)

    return run


def block_acceptance(optimize=lambda function: function):
    @optimize
    def decide(p, q, token, u):
        batch, k, _ = q.shape
        rows = torch.arange(batch, device=p.device)
        p_t = p[:, :k].gather(2, token[:, :, None]).squeeze(2)
        q_t = q.gather(2, token[:, :, None]).squeeze(2)
        b = [torch.ones_like(u[:, 0])]
        for j in range(k):
            b.append((b[-1] * p_t[:, j] / q_t[:, j]).clamp(max=1))
        b = torch.stack(b, 1)
        mass = (b[:, 1:k, None] * p[:, 1:k] - q[:, 1:]).clamp(min=0).sum(-1)
        accept = torch.cat([u[:, : k - 1] * (mass + 1 - b[:, 1:k]) < mass, u[:, k - 1 :] < b[:, k:]], 1)
        count = (accept * torch.arange(1, k + 1, device=p.device)).amax(1)
        residual = (b[rows, count][:, None] * p[rows, count] - q[rows, count.clamp(max=k - 1)]).clamp(min=0)
        return count, torch.where(count[:, None] < k, residual, p[:, k])

    def run(p, q, token, u, sample_u):
        count, weights = decide(p, q, token, u)
        return torch.stack([count, pick(weights, sample_u)], 1)

    return run


def compiled(run):
    return torch.compile(run, dynamic=False)


def graphed(run):
    """The same as one launch: a rule of many small steps is held up by the host otherwise."""
    for _ in range(2):
        run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()

    def replay():
        graph.replay()
        return out

    replay.synchronizes = True  # a graph is not captured into another
    return replay


def differing(run, inputs):
    """Share of rows that f64 decides otherwise: what rounding may do to a row in ten thousand."""
    exact = run(*(t.double() if t.is_floating_point() else t for t in inputs))
    return lambda got: (got != exact).any(1).double().mean().item()


def decoding_peers(op, p):
    rand = lambda *shape: torch.rand(*shape, device="cuda") * (1 - 2.0**-23)
    if p["batch"] == 0:
        raise NotThisCase
    if op == "decoding.block":
        target, draft = laws(p, p["draft_len"] + 1)
        draft = draft[:, :-1].contiguous()
        token = torch.multinomial(draft.flatten(0, 1), 1).view(p["batch"], -1)
        inputs, run = [target, draft, token, rand(p["batch"], p["draft_len"]), rand(p["batch"])], block_acceptance()
    else:
        target, draft = laws(p, p["nodes"])
        drafts = p.get("drafts", "independent") if op == "decoding.tree" else "top"
        (token, first, sibling, parents), depth, width = trees(p, target, draft, drafts)
        if op == "decoding.tree":
            run = tree_acceptance(depth, width, drafts)
            inputs = [target, draft, token, first, sibling, rand(p["batch"], p["nodes"]), rand(p["batch"])]
        else:
            run, inputs = typical_acceptance(depth, 0.09, 0.3), [target, token, parents]
    if op == "decoding.tree":
        fast = tree_acceptance(depth, width, drafts, compiled)
    else:
        fast = block_acceptance(compiled) if op == "decoding.block" else compiled(run)
    wrong = differing(run, inputs)
    for name, function in (("eager", run), ("compile", fast)):
        call = lambda function=function: function(*inputs)
        call = graphed(call) if name == "compile" else call
        yield name, call, lambda call=call: wrong(call())


if __name__ == "__main__":
    pytorch.PEERS = {"decoding": decoding_peers}
    pytorch.main()
