#!/bin/sh
# Chains the small networks of MSN on synthetic videos, on a CPU: detector, propagator, pairs of
# masks, selection network, pipeline. Every step is skipped if its output is there; a training that
# was interrupted goes on where it stopped.
#
#   sh configs/msn/quickstart_synthetic.sh            from the root of the project
#   OUT=folder PROPAGATOR=weights.pth VIDEOS=50 PYTHON=python3 sh ...   other places, less work
set -e
PYTHON=${PYTHON:-python}
OUT=${OUT:-output/msn}
VIDEOS=${VIDEOS:-50}               # of synthetic_val, in the comparison
PAIR_VIDEOS=${PAIR_VIDEOS:-132}    # that pairs are made of
PROPAGATOR=${PROPAGATOR:-$OUT/propagator/model_final.pth}
DETECTOR_ITERS=${DETECTOR_ITERS:-1800}     # training iterations of the three networks
PROPAGATOR_ITERS=${PROPAGATOR_ITERS:-400}
SELECTION_ITERS=${SELECTION_ITERS:-1500}
OPTS=${OPTS:-MODEL.MSN.SCORE_THRESH 0.4}   # of the pipeline, KEY VALUE ...
mkdir -p "$OUT"
spent=0

report() {  # what the step took; "times" itself must not run in a subshell, which starts at zero
    times > "$OUT/times.txt"
    total=$(awk 'NR == 2 { gsub("s", ""); split($1, u, "m"); split($2, s, "m")
                           printf "%d", 60 * (u[1] + s[1]) + u[2] + s[2] }' "$OUT/times.txt")
    echo "   $1: $((total - spent)) CPU-seconds, $total in all" | tee -a "$OUT/cpu_seconds.txt"
    spent=$total
}

train() {  # config, folder, options
    config=$1; folder=$2; shift 2
    [ -f "$folder/model_final.pth" ] || $PYTHON train_net.py --num-gpus 0 --resume \
        --config-file "configs/msn/$config" OUTPUT_DIR "$folder" "$@"
}

echo "1. detector"
train quickstart_detector.yaml "$OUT/detector" SOLVER.MAX_ITER "$DETECTOR_ITERS"
report detector
echo "2. propagator"
[ -f "$PROPAGATOR" ] || train quickstart_propagator.yaml "$OUT/propagator" \
    SOLVER.MAX_ITER "$PROPAGATOR_ITERS"
report propagator
echo "3. pairs, on videos that neither has seen"
if [ ! -f "$OUT/pairs.json.gz" ]; then
    $PYTHON -m vis_projects.msn.join_weights --detector "$OUT/detector/model_final.pth" \
        --propagator "$PROPAGATOR" "$OUT/without_selector.pth"
    $PYTHON tools/make_selection_pairs.py --config-file configs/msn/quickstart_synthetic.yaml \
        --weights "$OUT/without_selector.pth" --out "$OUT/pairs.json.gz" \
        $OPTS DATASETS.TRAIN "('synthetic_train:seed=1:videos=$PAIR_VIDEOS:length=8',)"
fi
report pairs
echo "4. selection network"
PAIRS="('$OUT/pairs.json.gz',)"
train quickstart_selection.yaml "$OUT/selection" SOLVER.MAX_ITER "$SELECTION_ITERS" \
    MODEL.MSN.SELECTOR.PAIRS "$PAIRS"
$PYTHON -m vis_projects.msn.accuracy --config-file configs/msn/quickstart_selection.yaml \
    --weights "$OUT/selection/model_final.pth" --json "$OUT/accuracy.json" \
    MODEL.MSN.SELECTOR.PAIRS "$PAIRS"
report "selection network"
echo "5. pipeline, with each switch of Table 4"
$PYTHON -m vis_projects.msn.join_weights --detector "$OUT/detector/model_final.pth" \
    --propagator "$PROPAGATOR" --selector "$OUT/selection/model_final.pth" "$OUT/msn.pth"
$PYTHON -m vis_projects compare --config-file configs/msn/quickstart_synthetic.yaml \
    --weights "$OUT/msn.pth" --variants configs/msn/compare/switches.yaml \
    --videos "$VIDEOS" --json "$OUT/switches.json" $OPTS
report "pipeline and its switches"
