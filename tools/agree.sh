#!/bin/sh
# Does an instruction set that no machine here has compute what the portable kernels do? Builds native/'s kernels with a
# cross compiler and runs tests/native/agree.cpp under an emulator.
#   tools/agree.sh [COMPILER [EMULATOR...]]        without arguments: NEON, by aarch64-linux-gnu-g++ and qemu-aarch64
set -eu
cd "$(dirname "$0")/.."
compiler=${1:-aarch64-linux-gnu-g++}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- qemu-aarch64 -cpu max
for tool in "$compiler" "$1"; do
  command -v "$tool" >/dev/null 2>&1 || {
    echo "$tool is not there; Debian and Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user" >&2
    exit 1
  }
done
out=build/agree
mkdir -p "$out"
compile() { "$compiler" -std=c++17 -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror "$@"; }
case $("$compiler" -dumpmachine) in
  aarch64*) neon=-march=armv8.2-a+dotprod+fp16 avx2= avx512= ;;
  *) neon= avx2='-mavx2 -mfma -mf16c' avx512='-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma -mf16c -Wno-uninitialized -Wno-maybe-uninitialized' ;;
esac
# shellcheck disable=SC2086  # words on purpose
{
  compile -O1 -c native/isa_portable.cpp -o "$out/portable.o"
  compile -O2 $neon -c native/isa_neon.cpp -o "$out/neon.o"
  compile -O2 $avx2 -c native/isa_avx2.cpp -o "$out/avx2.o"
  compile -O2 $avx512 -c native/isa_avx512.cpp -o "$out/avx512.o"
}
compile -O2 -Inative -c tests/native/agree.cpp -o "$out/agree.o"
"$compiler" -static "$out"/*.o -o "$out/agree"
exec "$@" "$out/agree"
