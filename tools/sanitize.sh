#!/bin/sh
# Builds native/ with sanitizers into build/ and runs the kernels' tests on it. What they find ends the run.
#   tools/sanitize.sh address,undefined|thread [pytest arguments]
set -eu
cd "$(dirname "$0")/.."
kind=$1
shift
out=$PWD/build/sanitize-${kind%%,*}
bin=$PWD/.venv/bin
mkdir -p build
case "${1:--}" in
  -*) set -- tests/unit/generate/test_native_runner.py tests/unit/generate/test_native_failures.py \
    tests/unit/generate/test_adapters.py $([ "$kind" = thread ] || echo tests/unit/kernels) "$@" ;;
esac

{
  cmake -S native -B "$out" -DPython_EXECUTABLE="$bin/python" -DAQUILA_SANITIZE="$kind" -DCMAKE_BUILD_TYPE=Sanitize \
    -DCMAKE_CXX_FLAGS_SANITIZE='-O1 -fno-var-tracking' &&
    nice cmake --build "$out" --parallel "${JOBS:-2}"
} >"$out.log" 2>&1 || { cat "$out.log"; exit 1; }

# Python asks this finder before that of the editable installation, in the processes that tests start too.
cat >"$out/sitecustomize.py" <<END
import importlib.util, pathlib, sys

class Sanitized:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "aquila.kernels._native":
            return importlib.util.spec_from_file_location(name, next(pathlib.Path("$out").glob("_native.*.so")))
        return None

sys.meta_path.insert(0, Sanitized)
END
export PYTHONPATH="$out" OMP_NUM_THREADS=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0  # the interpreter keeps what it allocates
# torch is not built for the thread sanitizer, which then misses how its threads wait for each other
printf '%s\n' called_from_lib:libtorch_cpu.so called_from_lib:libtorch_python.so called_from_lib:libgomp.so called_from_lib:libgomp- \
  race:libtorch mutex:libtorch >"$out/suppressions"
export TSAN_OPTIONS="halt_on_error=1:suppressions=$out/suppressions"
case $kind in
  thread) library=libtsan.so ;;
  *) library=libasan.so ;;
esac
LD_PRELOAD="$(c++ -print-file-name=$library) $(c++ -print-file-name=libstdc++.so.6)" setarch -R "$bin/python" -m pytest -q -p no:cacheprovider --capture sys --timeout 600 "$@"
