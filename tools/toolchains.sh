#!/bin/sh
# Installs, from Debian's or Ubuntu's packages, what of these is missing: compilers for the judge, a browser for the pages,
# an editor for the language server. With arguments, those alone: tools/toolchains.sh node nvim
# Where that cannot be done it says so and goes on: what needs them is skipped with its reason.
set -eu
wanted=" $* "
missing=
need() {
  case $wanted in "  " | *" $1 "*) ;; *) return 0 ;; esac
  command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need g++ g++
need javac default-jdk-headless
need go golang-go
need node nodejs
need npm npm
need chromium chromium
need nvim neovim
need curl curl
[ -n "$missing" ] || exit 0
# fonts with Chinese characters, so that a picture of a page shows them
case $missing in *chromium*) missing="$missing fonts-noto-cjk" ;; esac
root=$([ "$(id -u)" = 0 ] || echo 'sudo -n')
if command -v apt-get >/dev/null 2>&1; then
  # shellcheck disable=SC2086  # words on purpose
  { $root apt-get -qq update && DEBIAN_FRONTEND=noninteractive $root apt-get -qq install --yes --no-install-recommends $missing; } \
    >/dev/null && exit 0
fi
echo "not installed:$missing; install them by hand for the tests that need them" >&2
