"""A kernel made of PyTorch operations, held against the reference. With a GPU or without."""

import sys, torch, touchstone

CASE = "attention.forward:batch=2,seq_q=33,seq_k=65,heads_q=4,heads_kv=4,head_dim=64,mask=full,dtype=f32"
case = touchstone.Case((sys.argv + [CASE])[1], device="cuda" if torch.cuda.is_available() else "cpu")
q, k, v = (case[name].float().transpose(1, 2) for name in "qkv")
scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
o = (scores.softmax(-1) @ v).transpose(1, 2).to(case["q"].dtype)
sys.exit(case.verify(o=o, lse=scores.logsumexp(-1)))
