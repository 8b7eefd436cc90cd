"""Build of the native CPU kernels; everything else is in pyproject.toml.

The same C++ sources are compiled once per instruction set into plain shared libraries with a C
interface, beside the Python modules that load them. Without a C++ compiler the installation
still succeeds, with a warning: torch then does the work.
"""

from __future__ import annotations

import copy
import os
import platform
from glob import glob

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = "kernels/sgrt_kernels/native/src"
FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",  # Python's own flags would add debug information, most of the library
    "-fno-math-errno",
    "-ffp-contract=off",  # fused where the source says so, so that results do not depend on luck
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-uninitialized",  # false alarms inside the compiler's own vector headers
    "-Wno-maybe-uninitialized",
    "-pthread",
]
X86 = {
    "avx512": [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni")] + ["-mfma", "-mf16c"],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "generic": [],
}
ARM = {"neon": ["-march=armv8.2-a+dotprod+fp16"], "generic": []}
ISAS = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}


def extensions() -> list[Extension]:
    isas = ISAS.get(platform.machine().lower(), {"generic": []})
    return [
        Extension(
            f"sgrt_kernels.native.libsgrt_{isa}",
            sources=sorted(glob(f"{SOURCES}/*.cpp")),
            depends=sorted(glob(f"{SOURCES}/*.h")),
            define_macros=[(f"SGRT_ISA_{isa.upper()}", "1"), ("SGRT_ISA_NAME", f'"{isa}"')],
            extra_compile_args=FLAGS + flags,
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        )
        for isa, flags in isas.items()
    ]


class BuildLibraries(build_ext):
    """Shared libraries that ctypes loads: no Python in them, so no Python version in their names."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = os.cpu_count()

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        # Objects of one instruction set must not be taken for another's. Extensions are built in
        # threads, so each gets a command of its own to say where its objects go.
        own = copy.copy(self)
        own.build_temp = os.path.join(self.build_temp, ext.name)
        super(BuildLibraries, own).build_extension(ext)


class WheelForAnyPython(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    packages=[
        *find_packages(include=["sgrt", "sgrt.*"]),
        *find_packages("kernels", include=["sgrt_kernels", "sgrt_kernels.*"]),
        "sgrt_grammars",
    ],
    include_package_data=False,  # C++ sources are no part of an installation
    package_data={"": ["py.typed"], "sgrt_grammars": ["*.lark"]},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": WheelForAnyPython},
)
