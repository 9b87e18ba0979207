#!/bin/sh
# Every experiment behind the README's results. Finished runs are skipped, stopped ones resumed.
#
#   MINILM=DIR GLUE=DIR TEXTS=DIR PAIRS=DIR sh examples/experiments.sh PART...
#
# MINILM  all-MiniLM-L6-v2, the bare encoder · GLUE  a folder with sst2/, mrpc/, stsb/, cola/ · TEXTS  raw text
# PAIRS   Multi30k: train.en, train.de, val.en, val.de
# PART    teachers, general, ladder, ablation, wide, sparse, growth, translation
# Models go to runs/, rows to runs/results.jsonl; those of the README are in examples/results.jsonl.
# One core each; with several cores, run parts in parallel.
set -eu
RECIPES=$(dirname "$0")/recipes
ROWS="--results runs/results.jsonl --cache runs/cache --threads 1 --resume"

# folder, command: resumes if the folder holds a run
into() {
  folder=$1
  shift
  if [ -f "$folder/run.json" ]; then set -- "$@" --resume; fi
  minibert "$@" --out "$folder"
}

# task, seed, learning rate, epochs
finetuned() {
  into "runs/teachers/$1-$2" finetune --model "$MINILM" --data "$GLUE/$1" --task "$1" --seed "$2" --lr "$3" \
    --epochs "$4" --dtype auto --evaluate-every 50 --threads 1
}

# task: the best of its teachers on dev becomes runs/teacher-TASK
chosen() {
  best=$(python -c '
import json, sys
metrics = {folder: json.load(open(folder + "/result.json"))["metrics"] for folder in sys.argv[1:]}
print(max(metrics, key=lambda folder: next(iter(metrics[folder].values()))))' "runs/teachers/$1-"*)
  [ -e "runs/teacher-$1" ] || cp -R "$best" "runs/teacher-$1"
}

# recipe, folder
general() {
  into "$2" distill --recipe "$RECIPES/$1" --teacher "$MINILM" --corpus "$TEXTS" --threads 1
}

# name, more options: on two cores, for two hours at most
translator() {
  name=$1
  shift
  into "runs/translation/$name" finetune --task translation --data "$PAIRS" --dtype auto --threads 2 "$@"
  for beam in 1 4; do
    minibert evaluate --task translation --data "$PAIRS" --threads 2 --beam "$beam" --model "runs/translation/$name"
  done
}

# recipe, seeds, more options
student() {
  recipe=$1 seeds=$2
  shift 2
  minibert distill --recipe "$RECIPES/$recipe.toml" --seeds "$seeds" --out "runs/$recipe" $ROWS "$@"
}

on_sst2() {
  student "$@" --teacher runs/teacher-sst2 --data "$GLUE/sst2"
}

# name, more options: one row of the ablation
row() {
  name=$1
  shift
  on_sst2 ablation 3 --baseline "ablation: full" --name "ablation: $name" --out "runs/ablation/$name" "$@"
}

# method and share, more options: one row of the sparse models
lean() {
  name="$model: $1"
  shift
  on_sst2 sparse 1 --baseline "$model: all" --name "$name" --out "runs/sparse/$name" $start "$@"
}

# a model's name, its folder, λ of L1, shares of heads, more options: unpruned, then ever sparser
lean_models() {
  model=$1 folder=$2 strength=$3 of_heads=$4
  shift 4
  start="--init-student $folder $*"
  lean all
  lean "λ‖θ‖²" --l2 1e-4
  lean "2:4 0.5" --pattern 2:4 --sparsity 0.5
  for share in 0.5 0.7 0.8 0.9 0.95; do
    lean "magnitude $share" --sparsity $share
    lean "movement $share" --sparsity $share --sparsity-by movement
    lean "l1 $share" --sparsity $share --sparsity-by l1 --l1 "$strength"
    lean "row $share" --sparsity $share --pattern row
    lean "ffn $share" --sparsity $share --pattern ffn
  done
  for share in $of_heads; do lean "heads $share" --sparsity $share --pattern heads; done
}

# processor, minutes on two of its cores, seeds, steps of both stages, joined texts, more options
# Every seed has a cache of its own, so its time is all that it takes.
growth() {
  processor=$1 minutes=$2 seeds=$3 first=$4 second=$5 join=$6
  shift 6
  for seed in $(seq 0 $((seeds - 1))); do
    on_sst2 growth 1 --seed "$seed" --threads 2 --init-student runs/general \
      --name "growth on $processor: $minutes" --out "runs/growth/$processor/$minutes" \
      --cache "runs/growth/$processor/$minutes/cache-$seed" --join "$join" --intermediate-epochs 99 \
      --intermediate-steps "$first" --epochs 99 --steps "$second" "$@"
  done
}

for part in "$@"; do
  case $part in
  teachers)
    for seed in 6 7; do finetuned sst2 $seed 3e-5 3; done
    for seed in 0 1 2; do finetuned mrpc $seed 5e-5 5; finetuned cola $seed 5e-5 4; done
    for seed in 0 1; do finetuned stsb $seed 5e-5 4; done
    for task in sst2 mrpc cola stsb; do chosen $task; done
    ;;
  general)
    general general.toml runs/general
    ;;
  ladder) # needs general and the teachers
    on_sst2 sst2-1-labels 5
    on_sst2 sst2-2-pca 5
    on_sst2 sst2-3-logits 5
    on_sst2 sst2-4-two-stages 3
    on_sst2 sst2-5-augmentation 3
    on_sst2 sst2-6-general 3 --init-student runs/general
    on_sst2 sst2-7-best 3 --init-student runs/general
    ;;
  ablation) # needs general and the teachers; every row takes equally long, whatever its steps cost
    general="--init-student runs/general"
    row full $general
    row "without general distillation"
    row "without the task's first stage" $general --intermediate-epochs 0 --steps 4800
    row "without task distillation" $general --intermediate-epochs 0 --steps 6200 --epochs 7 \
      --join 0 --prediction-weight 0 --label-weight 1
    row "without more texts" $general --join 0 --intermediate-steps 2400 --steps 2900
    row "without embeddings" $general --embedding-weight 0
    row "without the teacher's answers" $general --prediction-weight 0 --label-weight 1
    row "without attention" $general --attention-weight 0
    row "without hidden states" $general --hidden-weight 0
    row "without attention and hidden states" $general --attention-weight 0 --hidden-weight 0
    row "layers from the top" $general --layer-map top
    row "layers from the bottom" $general --layer-map bottom
    ;;
  wide) # TinyBERT4's own shape; needs the teachers
    general general-4x312.toml runs/general-4x312
    for task in sst2 mrpc stsb cola; do
      student "4x312-$task" $([ $task = sst2 ] && echo 2 || echo 3) --init-student runs/general-4x312 \
        --teacher "runs/teacher-$task" --data "$GLUE/$task"
    done
    ;;
  sparse) # needs the teachers; every layer keeps at least one head
    into runs/sparse/student distill --recipe "$RECIPES/growth.toml" --student 4x128 --teacher runs/teacher-sst2 \
      --data "$GLUE/sst2" --limit 20000 --join 10000 --intermediate-epochs 99 --intermediate-steps 1600 \
      --epochs 99 --steps 3600 --cache runs/cache --threads 2
    lean_models 4x128 runs/sparse/student 0.1 "0.5 0.7" --lr 3e-4
    lean_models 6x384 runs/teacher-sst2 0.5 "0.5 0.7 0.8 0.9" --lr 1e-4 --steps 600 --evaluate-every 200
    ;;
  growth) # needs general, the teachers and an otherwise idle machine
    growth "Zen 4" 3 3 500 1700 10000 --limit 20000
    growth "Zen 4" 5 3 900 3600 10000 --limit 20000
    growth "Zen 4" 15 3 4500 8500 30000
    growth "Zen 4" 60 1 36000 12000 30000
    growth "Zen 1" 5 3 240 650 2000 --limit 8000
    growth "Zen 1" 15 3 900 2200 6000 --limit 24000
    growth "Zen 1" 60 3 3000 6400 30000
    growth "Ice Lake" 112 1 22000 12000 30000
    ;;
  translation)
    translator 4x128 --shape 4x128x4x256 --dropout 0.3 --lr 5e-3 --epochs 36
    translator 4x256
    # needs general, and runs/fresh: a new Bert.from_config with the same config and tokenizer, saved
    short="--dropout 0.1 --batch-size 32 --epochs 6"
    translator 4x128-fresh --model runs/fresh --lr 2e-3 $short
    translator 4x128-warm --model runs/general --lr 5e-4 $short
    ;;
  *)
    echo "there is no part $part" >&2
    exit 2
    ;;
  esac
done
