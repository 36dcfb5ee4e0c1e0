#!/bin/sh
# Builds the library under AddressSanitizer and UndefinedBehaviorSanitizer, with bounds checks, in build/asan, and runs
# the tests of the drive world there.  The build in place is left alone.
# usage: asan.sh PYTHON [PYTEST ARGUMENTS...]
set -eu
cd "$(dirname "$0")/.."
python=$(realpath -s "$1")
shift
[ $# -gt 0 ] || set -- tests/drive
export FASTVEC_TEST_DATA="${FASTVEC_TEST_DATA:-$PWD/../shared/data}"
mkdir -p build/asan
tar c --exclude='*.so' --exclude=__pycache__ setup.py pyproject.toml README.md LICENSE fastvec fastvec_c tests | tar x -C build/asan
cd build/asan
FASTVEC_DEBUG=1 FASTVEC_CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer" \
    FASTVEC_LDFLAGS="-fsanitize=address,undefined" "$python" setup.py --quiet build_ext --inplace
# Python keeps what it allocated, so leaks are not looked for.  Were stderr captured, a report would be lost with it.
LD_PRELOAD="$(${CC:-gcc} -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 PYTHONMALLOC=malloc \
    PYTHONPATH="$PWD" "$python" -m pytest -p no:cacheprovider -q --capture=sys "$@"
