#!/usr/bin/env python3
"""Compile cuda/kernels/*.cu to cuda/ptx/*.ptx with the NVRTC that requirements.txt pins, and note in
cuda/lines/*.lines from which source lines each line of the PTX comes.

No GPU and no CUDA install are needed. A kernel file may state its target in a line
`// Target: compute_90a`; without one it is compute_80, which every later GPU runs. A line `// Twin: f16` says that the
program also uses its PTX with the word bf16 replaced by f16 (`cuda/src/ptx.rs`): --resources assembles that text too.

  compile.py [STEM ...]              write the PTX (of these kernels only)
  compile.py --check                 write nothing; exit 1 if any committed PTX, or its lines, is stale or left over

NVRTC's output depends, for some kernels, on where its own memory lies: a file it compiled from the very same
source may differ in the order of independent instructions. So compilation runs in a process with a fixed address
layout, and --check compiles a file that differs again, under other layouts, before it calls it stale.

  compile.py --resources [STEM ...]  also assemble with ptxas for sm_90a and print registers, spills and
                                     shared memory of every kernel
  compile.py --resources --json      write them to cuda/resources.json for all kernels; what was rewritten is always
                                     noted there. A kernel that takes more than before is refused with both
                                     numbers, unless --accept is given
  compile.py --resources --check     write nothing; exit 1 if any kernel takes more than resources.json says
"""

import argparse
import concurrent.futures
import ctypes
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import line_table

HERE = pathlib.Path(__file__).resolve().parent
KERNELS, PTX, LINES, RESOURCES = HERE / "kernels", HERE / "ptx", HERE / "lines", HERE / "resources.json"
# Text that everybody clones and every binary holds: a limit that a kernel must be worth exceeding. It began as 4 MiB for
# five verticals; eleven, with more rungs each, have 7.2.
BUDGET_BYTES = 7680 * 1024
LINES_BUDGET_BYTES = 400 * 1024  # a twentieth of the PTX, and room for short functions inlined in many places
ATTEMPTS = 12
FIXED_LAYOUT = "TOUCHSTONE_FIXED_LAYOUT"


def package(name):
    """Folder of an nvidia wheel inside this interpreter's environment."""
    try:
        import nvidia
    except ImportError:
        sys.exit("compile.py: the CUDA compiler is missing: pip install -r cuda/requirements.txt")
    for root in nvidia.__path__:
        folder = pathlib.Path(root) / name
        if folder.is_dir():
            return folder
    sys.exit(f"compile.py: package nvidia/{name} is missing: pip install -r cuda/requirements.txt")


class Nvrtc:
    """The few NVRTC calls we need, through ctypes."""

    def __init__(self):
        folder = package("cuda_nvrtc") / "lib"
        ctypes.CDLL(str(folder / "libnvrtc-builtins.so.12.4"), mode=ctypes.RTLD_GLOBAL)
        self.lib = ctypes.CDLL(str(folder / "libnvrtc.so.12"))
        self.include = package("cuda_runtime") / "include"

    def text(self, program, size_call, text_call):
        size = ctypes.c_size_t()
        getattr(self.lib, size_call)(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.lib, text_call)(program, buffer)
        return buffer.value.decode()

    def compile(self, source):
        """PTX text of a kernel file, and its line table."""
        text = source.read_text(encoding="utf-8")
        target = re.search(r"^// Target: (compute_\w+)$", text, re.M)
        options = [
            f"--gpu-architecture={target[1] if target else 'compute_80'}",
            "--std=c++17",
            "--device-as-default-execution-space",
            f"--include-path={self.include}",
            f"--include-path={KERNELS}",
            "-lineinfo",
        ]
        program = ctypes.c_void_p()
        self.lib.nvrtcCreateProgram(
            ctypes.byref(program), text.encode(), source.name.encode(), 0, None, None
        )
        array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
        status = self.lib.nvrtcCompileProgram(program, len(options), array)
        log = self.text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").strip()
        if status != 0:
            sys.exit(f"{source.name}: does not compile\n{log}")
        if log:
            print(f"{source.name}: {log}", file=sys.stderr)
        ptx = self.text(program, "nvrtcGetPTXSize", "nvrtcGetPTX")
        self.lib.nvrtcDestroyProgram(ctypes.byref(program))
        return line_table.split(ptx, KERNELS)


def fix_layout():
    """Start this script again with address randomization off, where the system allows it."""
    if os.environ.get(FIXED_LAYOUT):
        return
    os.environ[FIXED_LAYOUT] = "1"
    addr_no_randomize = 0x0040000
    try:
        if ctypes.CDLL(None).personality(addr_no_randomize) != -1:
            os.execv(sys.executable, [sys.executable, *sys.argv])
    except (AttributeError, OSError):
        pass  # not Linux: the attempts of --check must do


def another_layout_gives(stem, committed):
    """Whether compiling under some random address layout gives the committed text and lines."""
    command = [sys.executable, __file__, "--print", stem]
    randomize = lambda: ctypes.CDLL(None).personality(0)
    for _ in range(ATTEMPTS):
        run = subprocess.run(command, capture_output=True, text=True, preexec_fn=randomize)
        if run.stdout == "".join(committed):
            return True
    return False


def twins(source, ptx):
    """The PTX text of a kernel file, and of its twin where it has one."""
    text = ptx.read_text(encoding="utf-8")
    twin = re.search(r"^// Twin: f16$", source.read_text(encoding="utf-8"), re.M)
    return [text, text.replace("bf16", "f16")] if twin else [text]


def resources(stem, text):
    """What ptxas says of each kernel in PTX text: {symbol: {registers, spill_bytes, shared_bytes}}."""
    ptxas = package("cuda_nvcc") / "bin" / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        ptx = pathlib.Path(folder) / f"{stem}.ptx"
        ptx.write_text(text, encoding="utf-8")
        command = [ptxas, "-v", "-arch=sm_90a", "-o", f"{folder}/out.cubin", ptx]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{stem}: ptxas refuses it\n{run.stderr}")
    name, spills, found = "?", 0, {}
    for line in run.stderr.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spills = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            found[name] = {
                "registers": int(match[1]),
                "spill_bytes": spills,
                "shared_bytes": int(shared[1]) if shared else 0,
            }
    return found


def changes(old, new):
    """What rose, and what else differs, between two tables {stem/symbol: resources}, in words."""
    rises, others = [], []
    for kernel, now in sorted(new.items()):
        was = old.get(kernel)
        if was is None:
            others.append(f"{kernel}: new: {now['registers']} registers")
            continue
        for what in now:
            if now[what] != was[what]:
                line = f"{kernel}: {what.replace('_', ' ')} {was[what]} -> {now[what]}"
                (rises if now[what] > was[what] else others).append(line)
    others += [f"{kernel}: gone" for kernel in sorted(set(old) - set(new))]
    return rises, others


def settle(table, stems, whole, options):
    """Hold the table of these files (or of the whole folder) against resources.json, or note it there. Gives the
    exit code."""
    old = json.loads(RESOURCES.read_text(encoding="utf-8")) if RESOURCES.exists() else {}
    known = {k: v for k, v in old.items() if whole or k.split("/")[0] in stems}
    rises, others = changes(known, table)
    for line in rises:
        print(f"rose: {line}")
    for line in others:
        print(line)
    if options.check:
        if not old:
            print(f"{RESOURCES.name} is missing: write it with --resources --json")
        return 1 if rises or not old else 0
    if rises and not options.accept:
        print("not noted: give --resources --json --accept if these rises are worth what they buy")
        return 1
    files = {source.stem for source in KERNELS.glob("*.cu")}
    kept = {k: v for k, v in old.items() if k not in known and k.split("/")[0] in files}
    lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted({**kept, **table}.items()))
    RESOURCES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stems", nargs="*", metavar="STEM")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--resources", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--accept", action="store_true")
    parser.add_argument("--print", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.print:
        fix_layout()
    sources = sorted(KERNELS.glob("*.cu"))
    if options.stems:
        unknown = set(options.stems) - {s.stem for s in sources}
        if unknown:
            parser.error(f"no kernel file named {', '.join(sorted(unknown))}")
        sources = [s for s in sources if s.stem in options.stems]
    nvrtc, stale, stems = Nvrtc(), [], []
    # ptxas is a process of its own: it assembles one file while the next is compiled.
    assembler, assembled = concurrent.futures.ThreadPoolExecutor(1), []
    PTX.mkdir(exist_ok=True)
    LINES.mkdir(exist_ok=True)
    for source in sources:
        compiled, path = nvrtc.compile(source), PTX / f"{source.stem}.ptx"
        if options.print:
            sys.stdout.write("".join(compiled))
            continue
        paths = [path, LINES / f"{source.stem}.lines"]
        committed = tuple(p.read_text(encoding="utf-8") if p.exists() else None for p in paths)
        chance = options.check and None not in committed and committed != compiled
        if committed != compiled and not (chance and another_layout_gives(source.stem, committed)):
            differ = [p.name for p, old, new in zip(paths, committed, compiled) if old != new]
            stale += differ
            if not options.check:
                for each, text in zip(paths, compiled):
                    each.write_text(text, encoding="utf-8")
        rewritten = path.name in stale and not options.check
        if (options.resources or rewritten) and path.exists():
            stems.append(source.stem)
            for text in twins(source, path):
                assembled.append((source.stem, assembler.submit(resources, source.stem, text)))
    if options.print:
        return
    table = {}
    for stem, taken in assembled:
        for symbol, takes in taken.result().items():
            table[f"{stem}/{symbol}"] = takes
            if options.resources and not options.check:
                print(f"{symbol:48} " + ", ".join(f"{n} {k.replace('_', ' ')}" for k, n in takes.items()))
    if not options.stems:
        known = {s.stem for s in sources}
        left_over = [p for p in [*PTX.glob("*.ptx"), *LINES.glob("*.lines")] if p.stem not in known]
        stale += [f"{p.name} (no kernel file)" for p in left_over]
        if not options.check:
            for path in left_over:
                path.unlink()
    total = sum(p.stat().st_size for p in PTX.glob("*.ptx"))
    if total > BUDGET_BYTES:
        sys.exit(f"cuda/ptx holds {total} bytes, over its budget of {BUDGET_BYTES}")
    of_lines = sum(p.stat().st_size for p in LINES.glob("*.lines"))
    if of_lines > LINES_BUDGET_BYTES:
        sys.exit(f"cuda/lines holds {of_lines} bytes, over its budget of {LINES_BUDGET_BYTES}")
    verdict = ("stale: " if options.check else "written: ") + ", ".join(stale) if stale else "up to date"
    print(f"{len(sources)} kernel files, {total / 1024:.0f} KiB of PTX and {of_lines / 1024:.0f} KiB of lines in all; {verdict}")
    more, whole = 0, len(stems) == len(list(KERNELS.glob("*.cu")))
    if stems and (options.json or options.check or stale):
        more = settle(table, stems, whole, options)
    sys.exit(1 if options.check and stale else more)


if __name__ == "__main__":
    main()
