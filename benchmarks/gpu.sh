#!/usr/bin/env bash
# All that is to be measured on a GPU, in under eight minutes and without a network. `bash benchmarks/gpu.sh --quick --device cpu`
# rehearses it. PYTHON names an interpreter with torch and the packages of `.[train]`; PARADOX_QA_FEEDBACK the folder of QA-FEEDBACK's
# files; PARADOX_TRL an interpreter with TRL's last PPOTrainer, without which that part is left out. A part that fails or takes too long
# is named, and the others are measured.
set -uo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
missed=()
# a part and the seconds it may take, the most wanted first: 460 in all
for line in "t5 110" "matmul 60" "side 120" "compile 60" "trl 110"; do
  read -r part limit <<<"$line"
  timeout "$limit" "$python" -m benchmarks "$part" "$@" || missed+=("$part")
done
echo "not measured: ${missed[*]:-nothing}"
