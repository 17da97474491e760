"""The commands whose behaviour is recorded: each is typed in a folder with `photo.png`, `support/` and `broken.png`."""

DATA = "--data shapes:size=16,classes=3,count=60"
NET = "train/model.safetensors"
FEW = "fsc-train/model.safetensors"

# Commands with a run folder of the same name. A word `NAME/...` makes the case NAME run first. Every command gets
# `-o NAME --device cpu --seed 0`, and is typed twice: with `--json`, then with `--resume` for its table.
RUNS = {
    "train": f"train {DATA} --arch convnet:width=4 --epochs 2 --batch-size 10 --lr 0.01 --validation 12",
    "train-adversarial": "train --data shapes:size=16,classes=3,count=30 --arch resnet20 --epochs 1 --batch-size 10"
    " --adversarial pgd:steps=1 --recipe trades --eps 2/255 --validation 0 --save-epochs --optimizer adamw",
    "train-init": f"train {DATA} --init {NET} --limit 20 --epochs 1 --batch-size 10 --average 0.5 --no-augment"
    " --save-epochs",
    "distill": f"distill --teacher {NET} {DATA} --limit 40 --epochs 1 --batch-size 10 --draws 2",
    "distill-input": f"distill --teacher {NET} {DATA} --limit 20 --epochs 1 --batch-size 10 --draws 2"
    " --noise gaussian:site=input,first=0.5",
    "explain": f"explain photo.png --model {NET} {DATA} --limit 3 -m ig:steps=4 -m smoothtaylor:roots=4 -m lrp"
    " --batch-size 8",
    "explain-noisy": "explain photo.png --model distill/student.safetensors -m gradient --draws 2 --target 1"
    " --no-figure",
    "fsc-explain": f"fsc-explain photo.png --model {FEW} --support support",
    "score": f"score {DATA} --model {NET} --limit 4 -m gradient -m ig:steps=3 -s aupc:draws=2 -s autvc"
    " -s pointing-game",
    "score-controls": f"score photo.png --model {NET} -m gradcam -s sparseness --controls --no-figure",
    "score-maps": f"score --maps explain/ --model {NET} -s sparseness -s complexity --no-figure",
    "attack": f"attack {NET} {DATA} --limit 12 -a fgsm -a pgd:steps=2 --eps 1/255 --draws 2",
    "attack-l2": f"attack {NET} {DATA} --limit 6 -a pgd:steps=2 --norm l2 --eps 0.05 --checks none --judge last"
    " --save-adversarial --no-figure",
    "attack-eps": f"attack {NET} {DATA} --limit 6 -a fgsm --sweep eps=0,2/255,8/255 --checks none",
    "attack-noise": f"attack distill/student.safetensors {DATA} --limit 6 -a fgsm --sweep noise=0:1:0.5 --eps 1/255"
    " --draws 2 --checks none --no-figure",
    "attack-versus": f"attack {NET} --versus train-init/checkpoints/epoch-001.safetensors {DATA} --limit 12 -a fgsm"
    " --eps 1/255 --checks none",
    "certify": f"certify {NET} {DATA} --limit 6 --sigma 0.1 --selection 20 --draws 200 --radii 0,0.05,1",
    "certify-own": f"certify distill-input/student.safetensors {DATA} --limit 3 --selection 20 --draws 100 --no-figure",
    "boundary": f"boundary {NET} distill/student.safetensors {DATA} --images 0,1,2 --resolution 8 --draws 2",
    "boundary-gradient": f"boundary {NET} {DATA} --plane gradient --images 1 --resolution 6 --no-figure",
    "fsc-train": "fsc-train --data shapes:classes=6,size=32,count=120 --backbone conv4:width=8 --size 32 --way 3"
    " --shot 2 --queries 3 --head relation --guide lrp --episodes 4 --every 2 --validation 2 --save-epochs",
    "fsc-train-init": f"fsc-train --data shapes:classes=4,size=32,count=80 --init {FEW} --way 3 --shot 1 --queries 2"
    " --guide none --fwt --episodes 2 --every 1 --validation 0",
    "fsc-test": f"fsc-test {FEW} --data shapes:classes=6,size=32,count=300 --shot 1 --shot 2 --queries 3 --episodes 6",
    "fsc-test-versus": f"fsc-test {FEW} --versus fsc-train-init/model.safetensors"
    " --data shapes:classes=6,size=32,count=300 --shot 2 --queries 3 --episodes 6 --transductive",
}

# Commands that only print: typed with `--json`, then without.
PRINTS = {
    "info": f"info {NET}",
    "info-noisy": "info distill/student.safetensors",
    "info-few-shot": f"info {FEW}",
    "list": "list",
    "list-family": "list attacks",
    "list-entry": "list attributions:smoothtaylor",
}

ATTACK = f"attack {NET} {DATA} --limit 2 -o new --device cpu --checks none --no-figure"
EXPLAIN = f"explain photo.png --model {NET} -o new --device cpu --no-figure"
FSC_TRAIN = "fsc-train --backbone convnet:width=4 --size 16 -o new --device cpu"

# Commands of which only the exit code is recorded, and whether an error and a hint come; most are mistakes.
EXITS = {
    "no command": "",
    "version": "--version",
    "help": "--help",
    "help of a command": "attack --help",
    "unknown command": "atack",
    "unknown option": "attack --norms l2",
    "completion of an unknown shell": "--completion tcsh",
    "list of an unknown family": "list atacks",
    "list of an unknown entry": "list attacks:pdg",
    "info of a missing file": "info missing.safetensors",
    "info of an unknown name": "info resnet5000",
    "explain without input": "explain",
    "explain a missing image": f"explain missing.png --model {NET} -o new",
    "explain a broken image": f"explain broken.png --model {NET} -o new",
    "explain one broken image of two": f"explain photo.png broken.png --model {NET} -m gradient -o half --no-figure",
    "explain with an unknown method": f"{EXPLAIN} -m smothtaylor",
    "explain with an unknown key": f"{EXPLAIN} -m ig:step=4",
    "explain with a bad value": f"{EXPLAIN} -m ig:steps=many",
    "explain with a value out of range": f"{EXPLAIN} -m ig:steps=0",
    "explain with the same method twice": f"{EXPLAIN} -m ig -m ig",
    "explain an unknown class": f"{EXPLAIN} -m gradient --target 3",
    "explain with a bad mean": f"{EXPLAIN} --mean 0.5,0.5",
    "explain with an unknown precision": f"{EXPLAIN} --precision fp8",
    "explain on an unknown device": f"{EXPLAIN.replace('cpu', 'tpu')}",
    "explain with no batch": f"{EXPLAIN} --batch-size 0",
    "explain with zero draws": f"{EXPLAIN} --draws 0",
    "explain unknown data": f"explain --data shape --model {NET} -o new",
    "explain data with a bad value": f"explain --data shapes:size=3 --model {NET} -o new",
    "explain with a changed setting and --resume": f"explain photo.png --model {NET} -m gradient -o explain/ --resume",
    "explain with an unknown key in the config": f"{EXPLAIN} --config unknown.toml",
    "explain with a broken config": f"{EXPLAIN} --config broken.toml",
    "explain with a missing config": f"{EXPLAIN} --config missing.toml",
    "explain with a config": f"{EXPLAIN.replace('new', 'configured')} --config good.toml",
    "score without input": "score",
    "score with an unknown metric": f"score photo.png --model {NET} -s auc -o new",
    "score maps and a method": f"score --maps explain/ --model {NET} -m ig -o new",
    "score with a gate on another metric": f"score photo.png --model {NET} -s autvc --fail-over aupc=1 -o new",
    "score with a gate that is no number": f"score photo.png --model {NET} -s autvc --fail-over autvc=low -o new",
    "score with a gate that is missed": f"score photo.png --model {NET} -m gradient -s sparseness"
    " --fail-under sparseness=2 -o gated --no-figure",
    "attack with an unknown norm": f"{ATTACK} --norm l3",
    "attack with a negative radius": f"{ATTACK} --eps -1/255",
    "attack with a radius of bytes": f"{ATTACK} --eps 8",
    "attack in l2 with a radius of linf": f"{ATTACK} --norm l2 --eps 8/255",
    "attack with a radius that is no number": f"{ATTACK} --eps small",
    "attack twice the same": f"{ATTACK} -a fgsm -a fgsm",
    "attack versus and over a sweep": f"{ATTACK} --versus {NET} --sweep eps=0,1/255",
    "attack over a bad sweep": f"{ATTACK} --sweep alpha=1",
    "attack with a bad judge": f"{ATTACK} --judge first",
    "attack with bad checks": f"{ATTACK} --checks all",
    "attack into a folder with files": f"attack {NET} {DATA} -o attack/",
    "attack with a gate out of range": f"{ATTACK} --fail-under 2",
    "attack with a gate that is missed": f"{ATTACK.replace('new', 'missed')} -a fgsm --fail-under 1 --eps 64/255",
    "attack transfer without a source": f"{ATTACK} -a transfer",
    "train with patience without validation": "train --patience 3 -o new",
    "train with an unknown optimizer": "train --optimizer adam -o new",
    "train with an unknown schedule": "train --schedule linear -o new",
    "train with a norm without an attack": "train --norm l2 -o new",
    "train with an unknown recipe": "train --adversarial pgd --recipe trade -o new",
    "train against transfer": "train --adversarial transfer -o new",
    "train an unknown architecture": "train --arch resnet21 -o new",
    "train for no epoch": "train --epochs 0 -o new",
    "train from a missing file": "train --init missing.safetensors -o new",
    "distill without a teacher": "distill",
    "distill with unknown lessons": f"distill --teacher {NET} --kd hints -o new",
    "distill with an unknown key of lessons": f"distill --teacher {NET} --kd temperature=4 -o new",
    "distill with lessons out of range": f"distill --teacher {NET} --kd tau=0 -o new",
    "distill from an unknown start": f"distill --teacher {NET} --init zero -o new",
    "distill with unknown noise": f"distill --teacher {NET} --noise adaptiv -o new",
    "boundary of no network": "boundary",
    "boundary of the same network twice": f"boundary {NET} {NET} -o new",
    "boundary in an unknown plane": f"boundary {NET} --plane random -o new",
    "boundary of a point": f"boundary {NET} --eps 0 -o new",
    "boundary of an image that is not there": f"boundary {NET} {DATA} --images 5000 -o new --device cpu",
    "fsc-train for a broken number of rounds": f"{FSC_TRAIN} --episodes 150 --every 100",
    "fsc-train with one way": f"{FSC_TRAIN} --way 1",
    "fsc-train with more ways than classes": f"{FSC_TRAIN} --way 40",
    "fsc-train with patience without validation": f"{FSC_TRAIN} --patience 2 --validation 0",
    "fsc-train with an unknown head": f"{FSC_TRAIN} --head relations",
    "fsc-train with an unknown guide": f"{FSC_TRAIN} --guide lpr",
    "fsc-train from a network with another head": f"fsc-train --init {FEW} --head gnn -o new",
    "fsc-train on the same data twice": f"{FSC_TRAIN} --data shapes --data shapes",
    "fsc-test a classifier": f"fsc-test {NET} {DATA} -o new --device cpu",
    "fsc-test a missing file": "fsc-test missing.safetensors -o new",
    "fsc-test with no shot": f"fsc-test {FEW} --shot 0 -o new",
    "fsc-test with one episode": f"fsc-test {FEW} --episodes 1 -o new",
    "fsc-explain without images": f"fsc-explain --model {FEW} --support support -o new",
    "fsc-explain without support": f"fsc-explain photo.png --model {FEW} --support missing -o new",
    "fsc-explain with ig": f"fsc-explain photo.png --model {FEW} --support support -m ig -o new",
}
