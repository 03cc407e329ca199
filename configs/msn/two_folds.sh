#!/bin/sh
# The selection network of MSN on real data: its pairs of masks come from detectors that have not
# seen the videos. Cuts YouTube-VIS 2021 train in two, trains a detector on either half, makes pairs
# with it on the other half (80k for training, 8k for validation in all), trains the network.
# Every step is skipped if its output is there; a training that was interrupted goes on.
#
#   PROPAGATOR=cfbi.pth sh configs/msn/two_folds.sh     from the root of the project
#   GPUS=8, OUT=output/msn, PYTHON=python; more options of a step: SPLIT, DETECTOR, PAIRS, SELECTION
set -e
PYTHON=${PYTHON:-python}
OUT=${OUT:-output/msn}
GPUS=${GPUS:-1}
NAME=${NAME:-ytvis_2021}
DETECTOR_CONFIG=${DETECTOR_CONFIG:-configs/msn/detector_fold%s_swinB_ytvis2021.yaml}
PIPELINE=${PIPELINE:-configs/msn/swinB_ytvis2021.yaml}
SELECTION_CONFIG=${SELECTION_CONFIG:-configs/msn/selection_ytvis2021.yaml}
[ -f "$PROPAGATOR" ] || { echo "two_folds.sh: PROPAGATOR=$PROPAGATOR: no such weights; docs/cfbi.md"; exit 2; }
mkdir -p "$OUT"

$PYTHON datasets/prepare.py split "$NAME" --folds 2 $SPLIT
for fold in 0 1; do
    other=$((1 - fold))
    detector=$OUT/detector_fold$fold
    [ -f "$detector/model_final.pth" ] || $PYTHON train_net.py --num-gpus "$GPUS" --resume \
        --config-file "$(printf "$DETECTOR_CONFIG" $fold)" OUTPUT_DIR "$detector" $DETECTOR
    [ -f "$OUT/pairs_$other.json.gz" ] && continue
    $PYTHON -m vis_projects.msn.join_weights --detector "$detector/model_final.pth" \
        --propagator "$PROPAGATOR" "$OUT/without_selector_$fold.pth"
    $PYTHON tools/make_selection_pairs.py --config-file "$PIPELINE" \
        --weights "$OUT/without_selector_$fold.pth" --files 2 --out "$OUT/pairs_$other.json.gz" \
        DATASETS.TRAIN "('${NAME}_local_fold$other',)" $PAIRS
done
$PYTHON train_net.py --num-gpus "$GPUS" --resume --config-file "$SELECTION_CONFIG" \
    OUTPUT_DIR "$OUT/selection" \
    MODEL.MSN.SELECTOR.PAIRS "('$OUT/pairs_0.json.gz', '$OUT/pairs_1.json.gz')" $SELECTION
