#!/usr/bin/env bash
# Set up one environment; `make install` and `make peers` call it.
#
#   requirements/install.sh {onedl|openmmlab|peers} VENV PYTHON
#   requirements/install.sh --same-python VENV PYTHON    only compare interpreters
#   requirements/install.sh --cuda-compiler VENV PYTHON [CUDA]
#       only compare nvcc with CUDA, or with that of VENV's torch where mmcv would be compiled for it
set -euo pipefail
cd "$(dirname "$0")/.."

what=$1 venv=$2 python=$3
bin=$venv/bin
log=$venv/mmcv-build.log

fail() { echo "install: $*" >&2; exit 1; }
step() { echo "== $*"; }
# No warning of conflicts: mmaction2's metadata asks for what it does not need, see nodeps.txt.
pip_install() {
  "$bin/python" -m pip install --disable-pip-version-check --no-warn-conflicts \
    -c requirements/constraints.txt "$@"
}
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# The lines of `pip -v` that a person wants to see: main steps, [n/m] of the compiler, errors.
progress() {
  sed -unE \
    -e 's|^ *(\[[0-9]+/[0-9]+\]) .* -c [^ ]*/([^/ ]+) .*|  \1 \2|p' \
    -e '/^(Collecting (onedl-)?mmcv|Building wheel|Successfully built)/p' \
    -e '/(^| )([Ee]rror|ERROR|FAILED):/p'
}

check_python() {
  local version
  version=$(version_of "$1" 2>/dev/null) || fail "$1 does not run:" \
    "name an interpreter that does, for instance PYTHON=python3.11 make install"
  case $version in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) fail "$1 is Python $version, the pins need 3.10 to 3.13:" \
      "name one of these, for instance PYTHON=python3.11 make install" ;;
  esac
}

same_python() {
  [ -x "$bin/python" ] || return 0
  local have want
  have=$(version_of "$bin/python" 2>/dev/null) ||
    fail "$venv is broken: rm -r $venv, then repeat this command"
  want=$(version_of "$python")
  [ "$have" = "$want" ] || fail "$venv was made with Python $have but PYTHON=$python is $want:" \
    "rm -r $venv to make it anew, or leave PYTHON out to go on with $have"
}

check_compiler() {
  command -v g++ >/dev/null || fail 'no C++ compiler to build mmcv with: install g++ (apt install g++)'
  local header
  header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
  [ -e "$header" ] || fail "no $header to build mmcv with: install the headers of $python" \
    "(apt install python$(version_of "$python")-dev)"
}

make_venv() {
  "$bin/python" -m pip --version >/dev/null 2>&1 && return
  "$python" -c 'import ensurepip' 2>/dev/null || fail "$python cannot make environments:" \
    "apt install python$(version_of "$python")-venv"
  step "$venv with $("$python" --version)"
  "$python" -m venv "$venv"
}

# Building mmcv is mostly parsing torch's headers, 78 times: precompiled, and without debugging
# symbols, it takes a third of the time. The flags must be those of the build. Where this fails,
# and with compilers other than GCC, the build is as it would be anyway.
precompile_headers() {
  local header=$1/torch_types.h flags
  [[ $(c++ --version) == *'Free Software Foundation'* ]] || return 0
  flags=$("$bin/python" -c 'if True:
    import setuptools
    from distutils import ccompiler, sysconfig
    from torch.utils.cpp_extension import include_paths
    compiler = ccompiler.new_compiler()
    sysconfig.customize_compiler(compiler)
    paths = [*include_paths(), sysconfig.get_python_inc()]
    print(*compiler.compiler_so[1:], *(f"-I{path}" for path in paths))') || return 0
  echo '#include <torch/types.h>' >"$header"
  # shellcheck disable=SC2086  # a word for each flag
  c++ $flags -std=c++17 -x c++-header "$header" -o "$header.gch" || return 0
  CFLAGS+=" -include $header"
}

# mmcv is compiled for CUDA where torch sees a GPU, or where FORCE_CUDA=1 says so (login nodes, image
# builds), and torch refuses an nvcc of another major version of CUDA, after minutes.
check_cuda() {
  local wanted=${1:-} found nvcc
  [ -n "$wanted" ] || wanted=$("$bin/python" -c 'if True:
    import os, torch
    on = torch.cuda.is_available() or os.environ.get("FORCE_CUDA") == "1"
    print(torch.version.cuda or "none" if on else "")')
  [ -n "$wanted" ] || return 0
  [ "$wanted" != none ] || fail "FORCE_CUDA=1 asks for CUDA, and this torch is a build without it:" \
    "leave FORCE_CUDA out, or install a CUDA build of torch"
  nvcc=${CUDA_HOME:+$CUDA_HOME/bin/nvcc}
  nvcc=${nvcc:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
  found=$("$nvcc" --version 2>/dev/null | sed -nE 's/.*release ([0-9.]+).*/\1/p') || true
  same_cuda "$wanted" "$found" "$nvcc"
  add_cuda_headers
}

# A compiler by itself (the package cuda-nvcc) lacks the headers of CUDA's libraries, such as
# cusparse.h, and torch's wheels bring them; what a toolkit has comes first.
add_cuda_headers() {
  local headers
  headers=$("$bin/python" -c 'if True:
    import glob, sysconfig
    print(":".join(sorted(glob.glob(sysconfig.get_path("purelib") + "/nvidia/*/include"))))')
  [ -z "$headers" ] || export CPATH=${CPATH:+$CPATH:}$headers
}

same_cuda() {
  local remedy="install CUDA $1's compiler and name its folder, CUDA_HOME=/usr/local/cuda-$1 make install,"
  remedy+=" or take a torch for the CUDA that is here (docs/how_to/install.md),"
  remedy+=" or compile for the CPU alone: CUDA_VISIBLE_DEVICES= make install"
  [ -n "$2" ] || fail "mmcv is to be compiled for CUDA $1, and there is no nvcc ($3): $remedy"
  [ "${1%%.*}" = "${2%%.*}" ] ||
    fail "mmcv is to be compiled for CUDA $1, as torch is, and $3 is that of CUDA $2: $remedy"
}

install_mmcv() {
  # Against this environment's torch, or it is built without ops and nobody says so.
  export MMCV_WITH_OPS=1 FORCE_CUDA=${FORCE_CUDA:-0} MAX_JOBS=${MAX_JOBS:-$(nproc)}
  step "mmcv, compiled with $MAX_JOBS jobs (about 4 minutes on two cores; full log: $log)"
  headers=$(mktemp -d)
  trap 'rm -rf "$headers"' EXIT
  local -x CFLAGS="-g0 ${CFLAGS:-}"
  precompile_headers "$headers" >"$log" 2>&1
  if ! pip_install -v --no-build-isolation "$(grep -oE '^(onedl-)?mmcv==[^ ]+' "$1")" 2>&1 |
    tee "$log" | progress; then
    tail -n 30 "$log" >&2
    fail "mmcv could not be built: see $log. Killed for want of memory? MAX_JOBS=1 make install"
  fi
}

install_project() {
  step 'mmswinv2 itself, as a link to this folder'
  # setuptools warns of what an editable installation is
  PYTHONWARNINGS='ignore:Editable installation' \
    pip_install -q --no-deps --no-build-isolation -e .
}

if [ "$what" = --cuda-compiler ]; then
  check_cuda "${4:-}"
  exit
fi

if [ "$what" = --same-python ]; then
  check_python "$python"
  same_python
  exit
fi

[ -x "$bin/python" ] && python=$bin/python  # go on with what is there
check_python "$python"
[ "$what" = peers ] || check_compiler
make_venv
export PATH="$PWD/$bin:$PATH"  # for ninja, which compiles mmcv in parallel
step 'torch and build tools'
pip_install -r requirements/torch.txt "$(grep -oE '^setuptools==[^ ]+' "requirements/$what.txt")"

if [ "$what" = peers ]; then
  step 'timm, transformers, torchvision, mmpretrain'
  pip_install -r requirements/peers.txt
  pip_install -q --no-deps -r requirements/peers-nodeps.txt
  install_project
  exit
fi

check_cuda
install_mmcv "requirements/$what.txt"
step 'the other packages'
pip_install -r "requirements/$what.txt" -r requirements/htc.txt -r requirements/video.txt \
  -r requirements/scale.txt -r requirements/tests.txt
pip_install -q --no-deps --force-reinstall -r requirements/nodeps.txt
install_project
"$bin/python" tools/misc/check_install.py
