#!/usr/bin/env bash
# Everything that needs a GPU, in under eight minutes on one card, with one report:
#   benchmarks/gpu_check.sh [REPORT.md]
# The gpu tests (float32 against the CPU, half precision, no waiting), training with AMP, a distributed
# step on NCCL, torch.compile, and the benchmarks of the README's configs. GPU_CHECK_DEVICE=cpu tries the
# commands themselves on a CPU. Exit code: 0 all passed, 1 something failed, 2 no GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
report=$(realpath -m "${1:-gpu_check.md}")
device="${GPU_CHECK_DEVICE:-cuda}"
python="${PYTHON:-python}"
out=$(mktemp -d); trap 'rm -rf "$out"' EXIT
export MPLBACKEND=Agg

if [ "$device" = cuda ] && ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "gpu_check.sh: torch sees no CUDA device; GPU_CHECK_DEVICE=cpu tries the commands on a CPU" >&2
    exit 2
fi
if [ "$device" = cuda ]; then
    gpus=$("$python" -c "import torch; print(torch.cuda.device_count())"); frames=60; marker="gpu"; patience=1
else
    gpus=0; frames=2; marker="not gpu"; patience=8
fi

failed=0
{
    echo "# GPU check"
    echo
    "$python" - <<'PY'
import platform, subprocess, torch, torchvision
name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
print(f"{name}, torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.platform()}, commit {commit or 'unknown'}")
PY
    echo
    echo "| check | result | seconds | last line |"
    echo "|---|---|---|---|"
} > "$report"

# check NAME LIMIT COMMAND...: runs it for at most LIMIT seconds and writes a row.
check() {
    local name=$1 limit=$(($2 * patience)) begin=$SECONDS code log="$out/log"; shift 2
    timeout -k 5 "$limit" "$@" > "$log" 2>&1; code=$?  # what hangs in a driver may need the second
    local last; last=$(grep -v '^\s*$' "$log" | tail -n 1 | tr '|' '/' | cut -c1-160)
    local result=passed
    case $code in
        0) ;;
        124 | 137) result="longer than $limit s" ;;
        *) result="FAILED ($code)" ;;
    esac
    [ $code -eq 0 ] || { failed=1; { echo; echo "<details><summary>$name</summary>"; echo; echo '```'; tail -n 40 "$log"; echo '```'; echo "</details>"; } >> "$out/details"; }
    echo "| $name | $result | $((SECONDS - begin)) | $last |" | tee -a "$report"
}

check "gpu tests" 150 "$python" -m pytest -q --slow -m "$marker" -p no:cacheprovider ${GPU_CHECK_TESTS:-tests}
check "training with AMP" 45 "$python" train_net.py --num-gpus "$((gpus > 0))" --config-file configs/quickstart.yaml \
    MODEL.DEVICE "$device" SOLVER.MAX_ITER "$((frames / 2 + 1))" SOLVER.AMP.ENABLED True DATASETS.TEST "()" OUTPUT_DIR "$out/amp"
check "distributed step" 45 "$python" -m benchmarks.distributed_step --device "$device"
check "torch.compile" 60 "$python" benchmark.py --config-file configs/srnet/quickstart_synthetic.yaml --size 96x160 \
    --frames "$frames" --device "$device" --compile

# The online systems of the README's table, with random weights: VIS at 360x640, VOS at 480x854 with
# two objects. The number format is named: on CUDA the command alone takes half precision.
bench() { # CONFIG OBJECTS SIZE FORMAT OPTION...
    local config=$1 objects=$2 size=$3 format=$4; shift 4
    check "$config $size $format" 20 "$python" benchmark.py --config-file "configs/$config.yaml" --size "$size" \
        --objects "$objects" --frames "$frames" --warm-up 2 --device "$device" \
        --json "$out/${config//\//_}_$format.json" MODEL.INFERENCE_DTYPE "$format" MODEL.WEIGHTS "" "$@"
}
for format in float32 bfloat16; do
    bench crossvis/R50_1x_ytvis2019 1 360x640 "$format"
    bench srnet/R101_davis2019 1 480x854 "$format"
    bench cfbi/R101_davis2017 2 480x854 "$format"
    bench frtm/R18_fast_davis2017 2 480x854 "$format" MODEL.FRTM.BACKBONE_WEIGHTS ""
done

{
    echo
    echo "Frames a second:"
    echo
    "$python" - "$out" <<'PY'
import json, pathlib, sys
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.json")):
    print(f"- {file.stem}: {json.dumps(json.loads(file.read_text()))[:400]}")
PY
    [ -f "$out/details" ] && cat "$out/details"
    echo
    echo "All of it took $SECONDS seconds."
} >> "$report"
echo "report: $report ($SECONDS s)"
exit $failed
