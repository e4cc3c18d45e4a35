#!/usr/bin/env bash
# Sets up what a target of the Makefile needs: `setup.sh runtime`, `setup.sh test`, or `setup.sh bench`
# after one of them.
# Python packages go into .venv, pinned by hash; programs come from the system's packages.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:?usage: setup.sh runtime|test|bench}
python=${PYTHON:-python3}
venv=.venv

fail() {
  printf 'error: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf '\nhint: %s\n' "$2" >&2
  exit 5
}

# install_packages NAME…: with apt-get where we may, else says what to install.
install_packages() {
  [ $# -gt 0 ] || return 0
  local root=()
  if ! command -v apt-get >/dev/null; then
    fail "programs are missing: \`$*\`" "install them (the names are those of Debian's packages)"
  elif [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || fail "programs are missing: \`$*\`" "run \`sudo apt-get install $*\`"
    root=(sudo -n)
  fi
  echo "installing $*"
  local quiet=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
  "${root[@]}" "${quiet[@]}" update >/dev/null
  "${root[@]}" "${quiet[@]}" install -y --no-install-recommends "$@" >/dev/null
}

# missing_packages COMMAND:PACKAGE…: prints the packages whose command is not there.
missing_packages() {
  local pair
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
  done
}

check_python() {
  command -v "$python" >/dev/null || fail "python3 is missing" "run \`sudo apt-get install python3\`"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old: 3.11 or newer is needed"
}

make_venv() {
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
  # Debian keeps the part that puts pip into a new environment in a package of its own.
  "$python" -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
  rm -rf "$venv"
  "$python" -m venv "$venv"
}

install_locked() {
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$1"
}

# The build for processors alone is a tenth of the size; only some indexes have it, for some versions.
install_torch() {
  echo "installing torch"
  install_locked requirements/torch-cpu.txt 2>/dev/null || install_locked requirements/torch.txt
}

# The peers that we measure beside ours. llama.cpp comes as source and takes minutes to compile.
install_bench() {
  # shellcheck disable=SC2046
  install_packages $(missing_packages g++:g++)
  install_locked requirements/bench-build.txt
  echo "compiling and installing the peers (minutes)"
  CMAKE_ARGS="${CMAKE_ARGS:-} -DLLAVA_BUILD=OFF" PATH="$PWD/$venv/bin:$PATH" \
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --require-hashes --no-build-isolation -r requirements/bench.txt
}

install_package() {
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
}

check_python
make_venv
if [ "$kind" = bench ]; then
  install_bench
  touch "$venv/.setup-bench"
  exit
fi
echo "installing Python packages"
install_locked requirements/build.txt
install_locked requirements/runtime.txt
if [ "$kind" = test ]; then
  # shellcheck disable=SC2046
  install_packages $(missing_packages qemu-aarch64-static:qemu-user-static readelf:binutils file:file \
    systemd-analyze:systemd gdb:gdb objdump:binutils strace:strace valgrind:valgrind /usr/bin/time:time npm:npm g++:g++)
  install_locked requirements/test.txt
  install_torch
fi
install_package
if [ "$kind" = test ]; then
  echo "fetching vocabularies"
  "$venv/bin/python" -m tests.support.vocabularies
fi
touch "$venv/.setup-$kind"
