"""The source lines of PTX, kept apart from it: NVRTC's `-lineinfo` writes `.loc` directives among the instructions,
which leave them as they are; the committed PTX is without, and a line table beside it says the same in a twentieth of
the bytes.

A table has three lines:
  1. names of the source files, separated by blanks; the first is the kernel file, unless all code comes from headers
  2. places, separated by blanks: `57` is line 57 of the kernel file, `2:19@57` line 19 of file 2, inlined (over however
     many calls) at line 57 of the kernel file. Code of CUDA's own headers counts as where it was inlined
  3. runs, separated by blanks, over all lines of the PTX text: `4` is four lines of the next place not yet seen, `4,7`
     four of place 7 and `,7` one. Place 0 is none: what comes before the code of a kernel
"""

import pathlib
import re

LOC = re.compile(r"\.loc (\d+) (\d+) (\d+)(?:,.*inlined_at (\d+) (\d+) (\d+))?")


def split(text, kernels):
    """PTX text as the compiler gives it, as (PTX without line information and blanks, its line table). `kernels` is
    the folder of our sources. Names that the compiler makes up become short: of parameters, known within their kernel
    alone, and of labels."""
    lines = [re.sub(r"\s+", " ", line.strip()).replace(", ", ",") for line in text.splitlines()]
    lines = [re.sub(r"\$L__BB(?=\d)", "$L", re.sub(r"\b\w+_param_(\d+)\b", r"p\1", line)) for line in lines]
    files = {}
    for line in lines:
        if match := re.match(r'\.file (\d+) "(.*)"', line):
            files[int(match[1])] = pathlib.Path(match[2]).name
    ours = {number for number, name in files.items() if (kernels / name).exists()}
    ptx, places, parents, now = [], [], {}, None
    for line in lines:
        if line.startswith(".section"):
            break  # nothing but debug information from here on
        if match := LOC.match(line.replace(",", ", ")):
            numbers = [int(n) if n else None for n in match.groups()]
            here, parent = tuple(numbers[:3]), tuple(numbers[3:])
            parents[here] = parent if parent[0] else None
            if here[1]:  # line 0 is the compiler's own: it goes with what was before
                now = place(here, parents, files, ours)
        elif line.startswith(".file") or line.startswith("//") or not line:
            continue
        else:
            if line.startswith((".visible", ".entry", ".func")):
                now = None
            ptx.append(line)
            places.append(now)
    return "\n".join(ptx) + "\n", table(places, files)


def place(here, parents, files, ours):
    """The innermost location in one of our files, with that in the kernel file where it was inlined."""
    chain, seen = [], set()
    while here and here not in seen:
        seen.add(here)
        if here[0] in ours and here[1]:
            chain.append(here)
        here = parents.get(here)
    if not chain:
        return None
    inner, kernel = chain[0], next((at for at in chain if files[at[0]].endswith(".cu")), None)
    if kernel is None or kernel == inner:
        return files[inner[0]], inner[1], None
    return files[inner[0]], inner[1], kernel[1]


def table(places, files):
    """The three lines of a table."""
    kernel = [name for name in files.values() if name.endswith(".cu")]
    used = sorted({at[0] for at in places if at} - set(kernel))
    names = kernel[:1] + used
    known, words, runs = {None: 0}, [], []
    for at in places:
        if runs and runs[-1][1] == at:
            runs[-1][0] += 1
        else:
            runs.append([1, at])
    last = []
    for count, at in runs:
        if at in known:
            last.append(f"{count if count > 1 else ''},{known[at]}")
            continue
        known[at] = len(known)
        file, line, kernel_line = at
        word = str(line) if file == names[0] else f"{names.index(file)}:{line}"
        words.append(word + (f"@{kernel_line}" if kernel_line else ""))
        last.append(str(count))
    return "\n".join([" ".join(names), " ".join(words), " ".join(last)]) + "\n"
