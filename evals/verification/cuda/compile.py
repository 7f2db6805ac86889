#!/usr/bin/env python3
"""Compiles the CUDA kernels for several architectures, without a GPU, a driver or CUDA's own compiler.

compile.py LIBRARY_FOLDER SOURCE… [--keep FOLDER]: the sources are one translation unit, in this order. Prints registers
and local memory of each kernel, and exits with 1 where one does not compile, spills registers or keeps an array in
local memory. The images are kept as FOLDER/ARCHITECTURE.cubin."""

import argparse
import ctypes
import pathlib
import re
import sys

ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]
OPTIONS = ["--std=c++17", "--ptxas-options=-v", "--diag-suppress=177"]
# ptxas says one after the other of each kernel.
KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '\w+'.*?"
    r"(?P<frame>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.S,
)


def compile_for(library, source, architecture):
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None)
    options = [option.encode() for option in [f"--gpu-architecture={architecture}", *OPTIONS]]
    code = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    image = ctypes.create_string_buffer(size.value)
    library.nvrtcGetCUBIN(program, image)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return code, log.value.decode(errors="replace"), image.raw


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("sources", type=pathlib.Path, nargs="+")
    parser.add_argument("--keep", type=pathlib.Path)
    given = parser.parse_args()
    # The compiler looks for its second library by name alone: it is there once it is loaded.
    for path in sorted(given.folder.glob("libnvrtc-builtins.so*")):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(next(given.folder.glob("libnvrtc.so*"))))
    source = b"\n".join(path.read_bytes() for path in given.sources)
    # A macro has three of each size of heads.
    entries = len(re.findall(rb'^extern "C" __global__', source, re.M)) + 3 * len(re.findall(rb"^ATTENTION\(", source, re.M))
    failed = False
    for architecture in ARCHITECTURES:
        code, log, image = compile_for(library, source, architecture)
        if code:
            print(f"{architecture}: does not compile\n{log}")
            failed = True
            continue
        kernels = [match.groupdict() for match in KERNEL.finditer(log)]
        print(f"{architecture}: {len(kernels)} kernels, {len(image)} bytes")
        if len(kernels) != entries:
            print(f"  the source has {entries}\n{log}")
            failed = True
        for kernel in kernels:
            print("  {name:<16} {registers:>3} registers, {frame} bytes of stack".format(**kernel))
            if any(int(kernel[key]) for key in ("frame", "stores", "loads")):
                print("    spills: {stores} bytes stored, {loads} bytes loaded".format(**kernel))
                failed = True
        if given.keep:
            given.keep.mkdir(parents=True, exist_ok=True)
            (given.keep / f"{architecture}.cubin").write_bytes(image)
    return failed


if __name__ == "__main__":
    sys.exit(main())
