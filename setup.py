"""Builds every fastvec_c/**/*.pyx into an extension module.  FASTVEC_DEBUG=1 adds bounds checks, assertions and symbols."""
import os
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("FASTVEC_DEBUG", "0") == "1"

# No fused multiply-adds: the same seeds must give the same bits on every machine.
CFLAGS = ["-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wno-unused-function"]
CFLAGS += ["-O1", "-g", "-UNDEBUG"] if DEBUG else ["-O3"]
CFLAGS += os.environ.get("FASTVEC_CFLAGS", "").split()

ROOT = Path(__file__).parent


def extension(pyx):
    name = ".".join(pyx.relative_to(ROOT).with_suffix("").parts)
    return Extension(
        name,
        [str(pyx.relative_to(ROOT))],
        include_dirs=["fastvec_c", "fastvec_c/include", numpy.get_include()],
        depends=[str(h.relative_to(ROOT)) for h in (ROOT / "fastvec_c").rglob("*.h")],
        extra_compile_args=CFLAGS,
        extra_link_args=os.environ.get("FASTVEC_LDFLAGS", "").split(),
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    )


setup(
    ext_modules=cythonize(
        [extension(p) for p in sorted((ROOT / "fastvec_c").rglob("*.pyx"))],
        build_dir="build/cython",
        language_level=3,
        compiler_directives=dict(
            boundscheck=DEBUG,
            wraparound=False,
            cdivision=True,
            initializedcheck=False,
            freethreading_compatible=False,
        ),
    )
)
