#!/bin/sh
# Builds the library under a sanitizer, with bounds checks, in a copy of its own below build/, and runs tests there.  The
# build in place is left alone.
# usage: sanitize.sh PYTHON address|thread [PYTEST ARGUMENTS...]
#     address  AddressSanitizer and UndefinedBehaviorSanitizer; whatever they find ends the process and fails the test
#     thread   ThreadSanitizer: the threads of one process.  What processes do to each other through the arena no sanitizer
#              sees; tests/stress has threads in their place.
set -eu
cd "$(dirname "$0")/.."
python=$(realpath -s "$1") kind=$2
shift 2
export FASTVEC_TEST_DATA="${FASTVEC_TEST_DATA:-$PWD/../shared/data}"
case $kind in
address) flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined" library=libasan.so ;;
thread) flags="-fsanitize=thread" library=libtsan.so ;;
*) echo "sanitize.sh: $kind; give address or thread" >&2; exit 2 ;;
esac
folder=build/$kind
mkdir -p "$folder"
tar c --exclude='*.so' --exclude=__pycache__ setup.py pyproject.toml README.md LICENSE docs fastvec fastvec_c tests | tar x -C "$folder"
cd "$folder"
FASTVEC_DEBUG=1 FASTVEC_CFLAGS="$flags -fno-omit-frame-pointer" FASTVEC_LDFLAGS="$flags" "$python" setup.py --quiet build_ext --inplace
export PYTHONPATH="$PWD" PYTHONMALLOC=malloc OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
# Python keeps what it allocated, so leaks are not looked for here (tests/stress looks).
# Tests of crashes need their signals as the system sends them; what a sanitizer looks for it finds before that.
theirs="handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:handle_abort=0"
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:$theirs"
# Workers are forked from a process that may have threads, and start their own.
export TSAN_OPTIONS="die_after_fork=0:halt_on_error=1:$theirs:suppressions=$PWD/tests/tsan.supp"
# ThreadSanitizer holds signals back until the next system call: a worker that computes cannot be asked for its stack.
if [ $kind = thread ]; then
    for test in test_hangs test_hang_while_building test_hung_and_replaced_the_stack_is_told; do
        set -- "$@" --deselect "tests/engine/test_detection.py::$test"
    done
fi
# ThreadSanitizer wants addresses that a kernel which randomizes much may have given away (vm.mmap_rnd_bits above 28).
fixed=""
if [ $kind = thread ] && setarch -R true 2>/dev/null; then fixed="setarch -R"; fi
# Were stderr captured, a report would be lost with it.  libstdc++: what comes to be loaded later (torch) throws C++ exceptions, which
# AddressSanitizer must know of from the beginning.
LD_PRELOAD="$(${CC:-gcc} -print-file-name=$library) $(${CC:-gcc} -print-file-name=libstdc++.so)" exec $fixed "$python" -m pytest -p no:cacheprovider -q --capture=sys "$@"
