#!/bin/sh
# Installs the clients that tests/clients tries, below build/clients. What cannot be installed, its tests skip.
set -u
here=$(cd "$(dirname "$0")" && pwd)
target=$(cd "$here/../.." && pwd)/build/clients
python=${PYTHON:-python3}
mkdir -p "$target"
"$here/../../tools/toolchains.sh" node npm nvim curl

into() { # into FOLDER FILE: a virtual environment that has what the file lists, made anew when the list changes
    cmp -s "$2" "$target/$1/installed" && return
    "$python" -m venv "$target/$1" && "$target/$1/bin/python" -m pip install --quiet --requirement "$2" &&
        cp "$2" "$target/$1/installed" || echo "$2 was not installed: the tests of its clients are skipped" >&2
}

into venv "$here/requirements.txt"
into venv-aider "$here/requirements-aider.txt" # pins what the others want newer
if ! cmp -s "$here/package.json" "$target/package.json" || [ ! -d "$target/node_modules" ]; then
    cp "$here/package.json" "$target/package.json"
    npm --prefix "$target" --no-audit --no-fund --silent install || {
        rm -f "$target/package.json"
        echo "package.json was not installed: the tests of its clients are skipped" >&2
    }
fi
