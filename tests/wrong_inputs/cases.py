"""The wrong inputs: what a user types, on which disk, and what the one line of answer says."""

import os

from tests.wrong_inputs.stage import (
    all_failed,
    flip_a_pixel,
    halves,
    images,
    images_below_a_class,
    in_use,
    leave_without_checkpoint,
    name_of_latin1,
    no_write_permission,
    of_another_format,
    remove,
    seven_zip,
    space,
    torn_zip,
    truncate,
    two_studies,
    unfinished,
    unreadable_images,
    without_a_key,
    write,
    zip_that_escapes,
)
from tests.wrong_inputs.wrong_input import WrongInput

# The arguments with which the stage's study was searched.
SAME_STUDY = "--dataset folder --data-root {images} --protocol smoke --rows contrastive"
# A split of the stage's images.
EVERY_SECOND_CLASS = "class,part\n" + "".join(
    f"class_{i:02d},{'test' if i % 2 else 'trainval'}\n" for i in range(16)
)

FLAGS = [
    WrongInput("--trial 3", "unrecognized arguments: --trial 3"),
    WrongInput("search", "unrecognized arguments: search"),
    WrongInput("--trials -1", "argument --trials: -1 is too small, must be at least 1"),
    WrongInput("--trials 0", "argument --trials: 0 is too small, must be at least 1"),
    WrongInput("--trials many", "argument --trials: 'many' is not a whole number"),
    WrongInput("--searches 0", "argument --searches: 0 is too small, must be at least 1"),
    WrongInput("--searches two", "argument --searches: 'two' is not a whole number"),
    WrongInput("--searches 1000", "--searches 1000 is too large, must be at most 999"),
    WrongInput(
        "--searches 2 --runs 1001",
        "1001 final runs (--runs, or the protocol's) are too many for several searches",
    ),
    WrongInput("--trials 1.5", "argument --trials: '1.5' is not a whole number"),
    WrongInput("--runs 0", "argument --runs: 0 is too small"),
    WrongInput("--top 0 --best-only", "argument --top: 0 is too small"),
    WrongInput("--seed -3", "argument --seed: -3 is too small"),
    WrongInput("--cpus-per-trial 0", "argument --cpus-per-trial: 0 must be above 0"),
    WrongInput("--cpus-per-trial -1", "argument --cpus-per-trial: -1 must be at least 0"),
    WrongInput("--gpus-per-trial 1.5", "must be a fraction below 1 or a whole number"),
    WrongInput("--gpus-per-trial nan", "argument --gpus-per-trial: nan must be at least 0"),
    WrongInput("--gpus-per-trial many", "argument --gpus-per-trial: 'many' is not a number"),
    WrongInput("--max-hours 0", "argument --max-hours: 0 must be above 0"),
    WrongInput("--max-hours -2", "argument --max-hours: -2 must be at least 0"),
    WrongInput("--max-hours inf", "argument --max-hours: inf must be at least 0"),
    WrongInput("--max-gpu-hours -1", "argument --max-gpu-hours: -1 must be at least 0"),
    WrongInput("--max-hours-per-study 0", "--max-hours-per-study: 0 must be above 0"),
    WrongInput("--max-gpu-hours-per-study 0", "--max-gpu-hours-per-study: 0 must be above 0"),
    WrongInput("--max-disk -5", "argument --max-disk: -5 must be at least 0"),
    WrongInput("--max-disk 5GB", "argument --max-disk: '5GB' is not a number"),
    WrongInput("--best-only --status", "argument --status: not allowed with argument --best-only"),
    WrongInput("--watch", "--watch needs --status"),
    WrongInput("--status --watch 0", "argument --watch: 0 must be above 0"),
    WrongInput("--top 2", "--top needs --best-only after a search"),
    WrongInput("--published", "--published needs --best-only"),
    WrongInput("--check-pipeline", "--check-pipeline has no published figures of glyphs"),
    WrongInput("--check-pipeline --dataset cub200 --rows triplet", "leave out --rows"),
    WrongInput("--check-pipeline --doctor", "not allowed with argument --check-pipeline"),
    WrongInput("--precision fp8", "argument --precision: invalid choice: 'fp8'"),
    WrongInput("--warm-start mine", "argument --warm-start: invalid choice: 'mine'"),
    WrongInput(
        "--warm-start twin --rows triplet+wpm triplet contrastive",
        "--warm-start twin: row contrastive has no miner, so there is no plain twin to begin with",
    ),
    WrongInput(
        "--sampler grid", "unknown sampler 'grid'; choose from curves, tpe, gp, cmaes, qmc, random"
    ),
    WrongInput(
        "--protocol tiny", "unknown protocol 'tiny'; choose from demo, mlrc, photos, photos_gpu, "
    ),
    WrongInput("--set crop", "argument --set: 'crop' is not FIELD=VALUE, such as max_epochs=40"),
    WrongInput("--set cropp=20", "a protocol has no field 'cropp'; choose from trunk, embedding"),
    WrongInput("--set name=mine", "a protocol has no field 'name'"),
    WrongInput("--set trials=3", "trials is a budget, which may grow; give --trials 3"),
    WrongInput("--set crop=12.5", "crop is '12.5', must be a whole number >= 1"),
    WrongInput("--set crop=", "crop is '', must be a whole number >= 1"),
    WrongInput("--set flip=2", "flip is '2', must be a number >= 0 and <= 1"),
    WrongInput("--set crop_scale=0.9,0.1", "must be [low, high] with low <= high"),
    WrongInput("--set precision=fp8", "precision is 'fp8', must be one of float32, tf32, bf16"),
    WrongInput("--set crop=40", "protocol small-crop_40: crop 40 px exceeds resize 28 px"),
    WrongInput("--set crop=20 --set crop=21", "crop is set twice, to 20 and to 21"),
    WrongInput("--trunk convnet --set trunk=bninception", "trunk is set twice"),
    WrongInput("--set trunk=resnet50", "unknown trunk 'resnet50'; choose from convnet"),
    WrongInput("--notify no-such-command", "no command 'no-such-command' here; give its path"),
    WrongInput('--notify "mail \'me"', "close the quote"),
    WrongInput("--address here", "argument --address: 'here' is not"),
    WrongInput("--address localhost:port", "argument --address: 'localhost:port' is not"),
    WrongInput("--address localhost:1", "--address localhost:1: nothing answers there"),
    WrongInput("--address no.such.host.invalid:6379", "nothing answers there"),
    WrongInput("--address http://localhost:8265", "http addresses are for --status"),
    WrongInput("--status --watch --address http://localhost:8265", "--watch needs an --address of"),
    WrongInput("--status --address localhost:1", "--address localhost:1: nothing answers there"),
    WrongInput("--serve --status", "argument --status: not allowed with argument --serve"),
    WrongInput("--serve page", "argument --serve: 'page' is not a port from 0 to 65535"),
    WrongInput("--serve 65536", "argument --serve: '65536' is not a port from 0 to 65535"),
    WrongInput("--serve -1", "argument --serve: '-1' is not a port from 0 to 65535"),
    WrongInput("--serve --watch", "--watch needs --status"),
    WrongInput("--serve --address localhost:6379", "--serve reads the folder on its own machine"),
    WrongInput("--serve --run-root {tmp}/nowhere", "nowhere: no such folder; start a search with"),
]
ROWS = [
    WrongInput("--rows", "argument --rows: expected at least one argument"),
    WrongInput("--rows kontrastive", "unknown row 'kontrastive'; choose from arcface, "),
    WrongInput("--rows Contrastive", "row 'Contrastive' is not LOSS or LOSS+MINER"),
    WrongInput("--rows contrastive+wpn", "row contrastive+wpn: unknown miner 'wpn'"),
    WrongInput("--rows ../../etc", "row '../../etc' is not LOSS or LOSS+MINER"),
    WrongInput("--rows ''", "row '' is not LOSS or LOSS+MINER"),
    WrongInput("--rows wpm", "unknown row 'wpm'"),
    WrongInput("--rows arcface+wpm", "there is no pair to mine within"),
    WrongInput("--trunk resnet50", "unknown trunk 'resnet50'; choose from convnet, bninception, "),
    WrongInput("--trunk torchvision:resnet5", "did you mean torchvision:resnet50"),
    WrongInput("--trunk timm:resnet18", "or download https://huggingface.co/timm/resnet18.a1_in1k"),
    WrongInput("--trunk torchvision:resnet18", "add --fetch, or download https://download.pytorch"),
    WrongInput("--trunk mobilenet_v1_0.75", "unknown trunk 'mobilenet_v1_0.75'; choose from conv"),
    WrongInput("--trunk mobilenet_v2", "add --fetch, or download https://raw.githubusercontent."),
    WrongInput(
        "--trunk mobilenet_v2 --weights {tmp}/w.tflite",
        "w.tflite is not a TensorFlow Lite file; download https://raw.githubusercontent.com/",
        prepare=write("w.tflite", "<html>404</html>"),
        situation="a web page",
    ),
    WrongInput(
        "--trunk mobilenet_v1_0.25 --weights {tmp}/mobilenet_v1_0.25_128_quant.tflite",
        "(cut short or altered); delete it and download https://raw.githubusercontent.com/",
        prepare=write("mobilenet_v1_0.25_128_quant.tflite", "half"),
        situation="cut short",
    ),
    WrongInput("--weights random.pth", "--weights has no meaning for trunk convnet"),
    WrongInput("--dataset cub200", "no weights of trunk bninception at"),
    WrongInput(
        "--dataset cub200 --weights {tmp}/images",
        "no weights of trunk bninception at",
        situation="a folder",
    ),
    WrongInput(
        "--dataset cub200 --weights {tmp}/w.pth",
        "w.pth",
        prepare=write("w.pth", "text"),
        situation="a text file",
    ),
]
IMAGES = [
    WrongInput("--dataset imagenet", "unknown data set 'imagenet'; choose from glyphs, omniglot"),
    WrongInput("--dataset ../etc", "'../etc' cannot name a folder"),
    WrongInput("--dataset folder", "--dataset folder needs --data-root DIR"),
    WrongInput("--data-root {images}", "has no meaning for glyphs"),
    WrongInput("--dataset folder --data-root {tmp}/nowhere", "nowhere does not exist"),
    WrongInput("--dataset folder --data-root {images}/class_00", "holds images itself"),
    WrongInput(
        "--dataset folder --data-root {tmp}/a.txt",
        "a.txt",
        prepare=write("a.txt", "text"),
        situation="a text file",
    ),
    WrongInput(
        SAME_STUDY, "no images under", prepare=images(classes=0), situation="an empty folder"
    ),
    WrongInput(
        SAME_STUDY, "15 classes are too few", prepare=images(classes=15), situation="15 classes"
    ),
    WrongInput(
        SAME_STUDY, "at least two images", prepare=images(count=1), situation="one image a class"
    ),
    WrongInput(
        SAME_STUDY, "2 of 32 images", prepare=unreadable_images, situation="two damaged images"
    ),
    WrongInput(
        "--dataset folder --data-root {tmp}/images.zip",
        "images.zip",
        prepare=torn_zip,
        situation="half a zip",
    ),
    WrongInput(
        "--dataset folder --data-root {tmp}/images.zip",
        "evil.png",
        prepare=zip_that_escapes,
        situation="a zip with ../../evil.png",
    ),
    WrongInput(
        "--dataset folder --data-root {tmp}/halves",
        "say what is meant: --data-root ",
        prepare=halves,
        situation="the same classes in train/ and val/",
    ),
    WrongInput(
        "--dataset folder --data-root {tmp}/halves --split folders",
        "16 classes have images in both halves",
        prepare=halves,
        situation="the same classes in train/ and val/",
    ),
    WrongInput(
        SAME_STUDY,
        "class folder class_00 holds images itself",
        prepare=images_below_a_class,
        situation="images in and below a class folder",
    ),
    WrongInput(
        SAME_STUDY,
        "have names that are not UTF-8",
        prepare=name_of_latin1,
        situation="a name in Latin-1",
    ),
    WrongInput(
        "--dataset folder --data-root {tmp}/images.7z",
        "is a 7z archive, which is not unpacked here",
        prepare=seven_zip,
        situation="a 7z archive",
    ),
    WrongInput("--classes-by folder", "argument --classes-by: invalid choice: 'folder'"),
    WrongInput("--classes-by name", "--classes-by has no meaning for glyphs"),
    WrongInput("--same-classes", "--same-classes needs --split"),
    WrongInput("--split folders", "--split folders has no meaning for glyphs"),
    WrongInput(SAME_STUDY + " --split {tmp}/s.csv", "s.csv: cannot be read (No such file"),
    WrongInput(
        SAME_STUDY + " --split {tmp}/s.csv",
        "s.csv, line 2: part is 'train', must be trainval or test",
        prepare=write("s.csv", "class,part\nclass_00,train\n"),
        situation="another word for a half",
    ),
    WrongInput(
        SAME_STUDY + " --split {tmp}/s.csv",
        "study folder/smoke/contrastive was started with split = None, now {'file': 's.csv'",
        prepare=write("s.csv", EVERY_SECOND_CLASS),
        situation="another split than before",
    ),
    WrongInput("--dataset omniglot", "omniglot is not at"),
    WrongInput("--dataset cub200 --weights random", "cub200 is not at"),
    WrongInput(
        SAME_STUDY,
        "pixel cache is damaged",
        prepare=flip_a_pixel,
        situation="a flipped bit in the cache",
    ),
    WrongInput(
        SAME_STUDY,
        "meta.json: damaged",
        prepare=truncate("work/pixels/folder-*/meta.json"),
        situation="half of the cache's index",
    ),
]
PROTOCOLS = [
    WrongInput("--protocol {tmp}/none.toml", "none.toml: cannot be read (No such file"),
    WrongInput(
        "--protocol {tmp}/p.toml",
        "p.toml: the file has 'cropp', which is not known; allowed are base, ",
        prepare=write("p.toml", "base = 'small'\ncropp = 20"),
        situation="a wrong name",
    ),
    WrongInput(
        "--protocol {tmp}/p.toml",
        "p.toml: crop is '20', must be a whole number >= 1",
        prepare=write("p.toml", "base = 'small'\ncrop = '20'"),
        situation="a wrong type",
    ),
    WrongInput(
        "--protocol {tmp}/p.toml",
        "p.toml: crop_scale is [0.9, 0.1], must be [low, high] with low <= high",
        prepare=write("p.toml", "base = 'small'\ncrop_scale = [0.9, 0.1]"),
        situation="high below low",
    ),
    WrongInput(
        "--protocol {tmp}/p.toml",
        "p.toml: has no trunk; set it, or take it over with base = NAME",
        prepare=write("p.toml", "crop = 20"),
        situation="no base",
    ),
    WrongInput(
        "--protocol {tmp}/p.toml",
        "p.toml: unknown trunk 'resnet50'; choose from convnet, ",
        prepare=write("p.toml", "base = 'small'\ntrunk = 'resnet50'"),
        situation="an unknown trunk",
    ),
    WrongInput(
        "--protocol {tmp}/p.toml",
        "p.toml: optimizer is 'sgd', must be one of adam, rmsprop",
        prepare=write("p.toml", "base = 'small'\noptimizer = 'sgd'"),
        situation="an unknown optimiser",
    ),
    WrongInput(
        "--protocol {tmp}/p.toml",
        "p.toml: dataset.cub is not known; choose from glyphs, omniglot, folder, cub200",
        prepare=write("p.toml", "base = 'small'\n[dataset.cub]\ncrop = 20"),
        situation="an unknown data set",
    ),
    WrongInput(
        "--protocol {tmp}/p.toml",
        "p.toml: base is 'tiny', must be one of demo, mlrc, ",
        prepare=write("p.toml", "base = 'tiny'"),
        situation="an unknown base",
    ),
    WrongInput(
        "--protocol {tmp}/p.toml",
        "p.toml: base is 'p', which leads back to itself (p -> p)",
        prepare=write("p.toml", "base = 'p'"),
        situation="its own base",
    ),
    WrongInput(
        "--protocol {tmp}/p.toml",
        "p.toml: not valid TOML (it starts with a byte order mark); save it as UTF-8 without one",
        prepare=write("p.toml", "\ufeffbase = 'small'"),
        situation="a byte order mark",
    ),
    WrongInput(
        SAME_STUDY.replace("smoke", "{tmp}/smoke.toml"),
        "was started with protocol.max_epochs = 4, now 5; put it back, or save the protocol under "
        "another name",
        prepare=write("smoke.toml", "base = 'smoke'\nmax_epochs = 5"),
        situation="changed",
    ),
    WrongInput(
        "--dataset folder --data-root {images} --set folds=1",
        "folds is '1', must be a whole number >= 2",
    ),
]
SPACES = [
    WrongInput("--search-spaces {tmp}/nowhere", "nowhere"),
    WrongInput(
        "--search-spaces {tmp}/spaces", "not valid TOML", prepare=space("[search"), situation="torn"
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces",
        "low must be below high",
        prepare=space("[search.pos_margin]\nlow = 2\nhigh = 1\n"),
        situation="low above high",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces",
        "a log scale needs low > 0",
        prepare=space("[search.pos_margin]\nlow = 0\nhigh = 1\nscale = 'log'\n"),
        situation="log from 0",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces",
        "must be 'linear' or 'log'",
        prepare=space("[search.pos_margin]\nlow = 0\nhigh = 1\nscale = 'cubic'\n"),
        situation="scale = 'cubic'",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces",
        "has no high",
        prepare=space("[search.pos_margin]\nlow = 0\n"),
        situation="no high",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces",
        "must be a finite number",
        prepare=space("[search.pos_margin]\nlow = 'a'\nhigh = 1\n"),
        situation="low = 'a'",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces",
        "which is not known",
        prepare=space("[serach.pos_margin]\nlow = 0\nhigh = 1\n"),
        situation="[serach.pos_margin]",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces --rows contrastive",
        "contrastive.toml: row contrastive needs a value for pos_margin",
        prepare=space(
            "[search.pos_margn]\nlow = 0\nhigh = 1\n[search.neg_margin]\nlow = 0\nhigh = 1\n"
        ),
        situation="[search.pos_margn]",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces --rows mine",
        "'SupConLos' is no loss of pytorch-metric-learning; did you mean 'SupConLoss'?",
        prepare=write("spaces/mine.toml", "loss = 'SupConLos'\n"),
        situation="loss = 'SupConLos'",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces --rows mine",
        "'LpDistance' is no loss of pytorch-metric-learning; choose from",
        prepare=write("spaces/mine.toml", "loss = 'LpDistance'\n"),
        situation="loss = 'LpDistance'",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces --rows mine",
        "SupConLoss has no argument 'temprature'; did you mean 'temperature'?",
        prepare=write(
            "spaces/mine.toml",
            "loss = 'SupConLoss'\n[search.temprature]\nlow = 0.01\nhigh = 1\n",
        ),
        situation="[search.temprature]",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces --rows mine",
        "module my_losses cannot be imported",
        prepare=write("spaces/mine.toml", "loss = 'my_losses:Mine'\n"),
        situation="no my_losses.py",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces --rows mine",
        "has no loss; name a class of pytorch-metric-learning",
        prepare=write("spaces/mine.toml", "[search.margin]\nlow = 0\nhigh = 1\n"),
        situation="no loss",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces --rows contrastive",
        "dataset.spo of row contrastive is not known; did you mean 'sop'?",
        prepare=write(
            "spaces/contrastive.toml",
            "[search.pos_margin]\nlow = 0\nhigh = 1\n[search.neg_margin]\nlow = 0\nhigh = 1\n"
            "[dataset.spo.fixed]\npos_margin = 0\n",
        ),
        situation="[dataset.spo]",
    ),
    WrongInput(
        "--search-spaces {tmp}/spaces --rows contrastive+wpm",
        "it must set exactly",
        prepare=write("spaces/wpm.toml", "[fixed]\nsharpness = 32\n"),
        situation="wpm.toml without dropout",
    ),
]
FOLDERS = [
    WrongInput(
        "--run-root {tmp}/a", "a: cannot be written", prepare=write("a", ""), situation="a file"
    ),
    WrongInput(
        "--run-root {tmp}/a/b",
        "b: cannot be written",
        prepare=write("a", ""),
        situation="below a file",
    ),
    WrongInput(
        "--work-root {tmp}/a", "a: cannot be written", prepare=write("a", ""), situation="a file"
    ),
    WrongInput("--run-root /proc/runs", "cannot be written", situation="a system folder"),
    WrongInput("--status --run-root {tmp}/nowhere", "no studies under"),
    WrongInput(
        "--status --run-root {tmp}/a",
        "no studies under",
        prepare=write("a", ""),
        situation="a file",
    ),
    WrongInput("--best-only", "no study glyphs/small/contrastive under"),
    WrongInput(
        SAME_STUDY + " --best-only",
        "unfinished: 2 of 3 trials",
        prepare=unfinished,
        situation="one to go",
    ),
    WrongInput(
        SAME_STUDY + " --best-only",
        "no complete trial",
        prepare=all_failed,
        situation="all trials failed",
    ),
    WrongInput(
        SAME_STUDY + " --best-only",
        "result.json: damaged",
        prepare=truncate("runs/*/*/*/trials/0001/result.json"),
        situation="half a result",
    ),
    WrongInput(SAME_STUDY, "is in use by process", prepare=in_use, situation="a launch runs"),
    WrongInput(
        SAME_STUDY + " --warm-start none",
        "was started with warm_start = 'auto', now 'none'; give --warm-start auto to continue it",
    ),
    WrongInput(
        SAME_STUDY.replace("contrastive", "triplet+wpm") + " --warm-start twin",
        "no study folder/smoke/triplet under",
    ),
    WrongInput(
        SAME_STUDY.replace("contrastive", "circle") + " --warm-start studies",
        "row circle: the run folder has no complete trial of circle on another data set or",
    ),
    WrongInput(
        SAME_STUDY.replace("contrastive", "circle") + " --warm-start published",
        "row circle: nothing was published for it that can be tried; leave out --warm-start publ",
    ),
    WrongInput(
        SAME_STUDY,
        "study.json: damaged",
        prepare=truncate("runs/*/*/*/study.json"),
        situation="torn",
    ),
    WrongInput(
        SAME_STUDY,
        "no study.json; restore study.json",
        prepare=remove("runs/*/*/*/study.json"),
        situation="a study without study.json",
    ),
    WrongInput(
        SAME_STUDY,
        "study file is damaged",
        prepare=write("runs/folder/smoke/contrastive/study.journal", "{}\n"),
        situation="another journal",
    ),
    WrongInput(
        SAME_STUDY,
        "written by wpm 7.0 in record format 99",
        prepare=of_another_format,
        situation="of a later version",
    ),
    WrongInput(SAME_STUDY + " --seed 1", "was started with seed = 0, now 1"),
    WrongInput(
        SAME_STUDY + " --sampler random", "was started with sampler = 'curves', now 'random'"
    ),
    WrongInput(SAME_STUDY + " --no-early-stopping", "with early_stopping = True, now False"),
    WrongInput(SAME_STUDY + " --trial-seeds new", "with trial_seeds = 'common', now 'new'"),
    WrongInput(
        SAME_STUDY,
        "was started with images.pixels = ",
        prepare=images(count=3),
        situation="other images",
    ),
    WrongInput(
        SAME_STUDY + " --best-only",
        "was searched on other images",
        prepare=images(count=3),
        situation="other images",
    ),
    WrongInput(
        SAME_STUDY + " --search-spaces {tmp}/spaces",
        "was started with searched.neg_margin.high = 2.0",
        prepare=space(
            "[search.pos_margin]\nlow = -0.2\nhigh = 2.0\n[search.neg_margin]\nlow = -0.2\n"
            "high = 3.0\n"
        ),
        situation="a wider search space",
    ),
    WrongInput(
        SAME_STUDY + " --trials 5",
        "checkpoint is damaged or missing; delete",
        prepare=leave_without_checkpoint,
        situation="a checkpoint lost",
    ),
]
ANALYSIS = [
    WrongInput("--run-root {tmp}/nowhere", "no studies under", program="rank_trials"),
    WrongInput("--row triplet", "no studies of --rows triplet", program="rank_trials"),
    WrongInput("--row ../x", "is not LOSS or LOSS+MINER", program="rank_trials"),
    WrongInput("--top 0", "0 is too small, must be at least 1", program="rank_trials"),
    WrongInput("--top a", "'a' is not a whole number", program="rank_trials"),
    WrongInput("--where score", "score", program="rank_trials"),
    WrongInput("--sort beauty", "unknown name 'beauty'; choose from", program="rank_trials"),
    WrongInput("--columns beauty", "unknown name 'beauty'; choose from", program="rank_trials"),
    WrongInput(
        "",
        "none of the 1 selected studies can be read",
        prepare=without_a_key,
        program="rank_trials",
        situation="study.json without a key",
    ),
    WrongInput(
        "",
        "none of the 1 selected studies can be read",
        prepare=truncate("runs/*/*/*/study.json"),
        program="rank_trials",
        situation="half a study",
    ),
    WrongInput("--format pdf", "invalid choice: 'pdf'", program="table"),
    WrongInput("--against nobody", "invalid choice: 'nobody'", program="table"),
    WrongInput("--side-by-side --format csv", "--side-by-side is not for csv", program="table"),
    WrongInput("--dataset cub200", "no studies of --dataset cub200", program="table"),
    WrongInput("contrastive", "give two rows, before the flags", program="compare"),
    WrongInput("contrastive triplet", "no row triplet among the selected", program="compare"),
    WrongInput("--all-twins", "no row has its +wpm twin", program="compare"),
    WrongInput(
        "contrastive contrastive --curves", "--curves is for --format csv", program="compare"
    ),
    WrongInput("--row margin", "no studies of --rows margin", program="importance"),
    WrongInput("", "no tested final runs in the selected studies", program="validate"),
    WrongInput("--points", "--points is for --format csv", program="validate"),
    WrongInput("", "the following arguments are required: --out", program="export"),
    WrongInput("--out {tmp}/out", "has 0 tested runs, not 1; make more", program="export"),
    WrongInput("--out {tmp}/out --run 0", "0 is too small", program="export"),
    WrongInput(
        "--out {tmp}/out",
        "2 studies are selected",
        prepare=two_studies,
        program="export",
        situation="two studies",
    ),
    WrongInput("--out {tmp}/images", "images: ", program="report", situation="a folder"),
    WrongInput(
        "--out {tmp}/a/r.html",
        "cannot be written",
        prepare=write("a", ""),
        program="report",
        situation="below a file",
    ),
    WrongInput("", "has a tested final run with a model; make one", program="embed"),
]
ON_RAY = [
    WrongInput(
        SAME_STUDY + " --trials 5 --gpus-per-trial 64",
        "lower --cpus-per-trial or --gpus",
        situation="two trials more",
        starts_ray=True,
    ),
    WrongInput(
        SAME_STUDY + " --trials 5 --max-gpu-hours 1 --gpus-per-trial 0",
        "--max-gpu-hours has no meaning where trials take no GPU",
        situation="two trials more",
        starts_ray=True,
    ),
    WrongInput(
        SAME_STUDY.removesuffix("contrastive") + "triplet --cpus-per-trial 4096",
        "a trial needs 4096 CPUs",
        situation="a new study",
        starts_ray=True,
    ),
    WrongInput(
        SAME_STUDY + " --dry-run --cpus-per-trial 4096", "no node can hold a trial", starts_ray=True
    ),
]
if os.geteuid() != 0:  # root may do everything
    FOLDERS.append(
        WrongInput(
            "--run-root {tmp}/closed",
            "cannot be written",
            prepare=no_write_permission,
            situation="a folder without permission",
        )
    )

WRONG_INPUTS = [*FLAGS, *ROWS, *IMAGES, *PROTOCOLS, *SPACES, *FOLDERS, *ANALYSIS, *ON_RAY]
