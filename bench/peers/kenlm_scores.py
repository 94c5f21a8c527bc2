#!/usr/bin/env python3
"""KenLM on the ARPA file, and of the text, that `cargo run --release --example ngram_scores -p touchstone-bench -- FOLDER`
made: every log10 probability must be ours to 1e-5 and every matched length ours exactly. Needs the package `kenlm`.

  kenlm_scores.py FOLDER

Says how many tokens a second KenLM's probing model scores on one core, sentence by sentence through its Python binding.
Exit code 1 if a token differs.
"""

import pathlib
import sys
import time

import kenlm

TOLERANCE = 1e-5  # KenLM keeps logarithms as 32-bit floats


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    model = kenlm.Model(str(folder / "model.arpa"))
    sentences = (folder / "held_out.txt").read_text(encoding="utf-8").splitlines()
    ours = [line.split("\t") for line in (folder / "scores.tsv").read_text(encoding="utf-8").splitlines()]
    theirs = [score for sentence in sentences for score in model.full_scores(sentence, bos=True, eos=True)]
    if not ours or len(ours) != len(theirs):
        sys.exit(f"{len(ours)} tokens of ours, {len(theirs)} of KenLM's")
    worst, unknown, different = 0.0, 0, 0
    for token, ((log10_prob, matched), (theirs_prob, theirs_matched, is_unknown)) in enumerate(zip(ours, theirs)):
        error = abs(float(log10_prob) - theirs_prob)
        worst, unknown = max(worst, error), unknown + is_unknown
        if not (error <= TOLERANCE and int(matched) == theirs_matched):
            different += 1
            if different <= 10:
                print(f"token {token}: {log10_prob} after {matched}, KenLM {theirs_prob} after {theirs_matched}")
    start = time.perf_counter()
    for _ in range(10):
        for sentence in sentences:
            model.score(sentence)
    rate = 10 * len(theirs) / (time.perf_counter() - start)
    print(f"{len(theirs)} tokens, {unknown} of them unknown: {different} differ; log10 p by {worst:.2e} at most")
    print(f"KenLM, order {model.order}: {rate:.3g} tokens a second on one core")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
