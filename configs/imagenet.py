"""X-CLR on ImageNet-1k: ResNet-50, 100 epochs, the graph made of class names (arXiv 2407.18134, table 1).

Command:   python -m xsample_jax.main --config=configs/imagenet.py --workdir=runs/imagenet/xclr \\
               --config.data.path=FOLDER       (a dataset with class names; see docs/data.md)
           No text model is needed: embeddings of the class names ship with the package (docs/captions.md).
Variants:  :smoke (embedded emoji, 5 small steps, seconds)
Hardware:  TPU v5e-16 (4x4); 8 GPUs will do (the paper's batch is 8 x 128).
Hours:     2.9 on 16 chips, at 0.2 of the peak (docs/notes/recipe.md: computed, not measured)
Expected:  linear probe above 63.4 (SimCLR) and, by a review of the paper, below 78.7; SupCon 74.3. The table of the
           paper could not be read, so its X-CLR row is not quoted here. Not reproduced by us yet.

Marks of the numbers below: [paper] reported by people who read the paper or its reviews; [repo] an independent
implementation that cites the paper's sections; [default] the paper is silent or was not readable: our choice, with the
reason.
"""

from xsample_jax.config import default_config, parse_variants, smoke


def get_config(arg=""):
    _, small = parse_variants(arg)
    config = default_config()
    config.name = "imagenet_xclr"
    config.epochs = 100  # [repo]
    config.batch_size = 1024  # [repo] 8 x 128
    config.views = 2  # [repo] both views are anchors: 2,048 rows

    config.data.source = "records"
    config.data.path = "data/imagenet2012"
    config.data.image_size = 256  # [default] one resize on the host, views are cut from 256 px on the device
    config.data.threads = 32  # [default] a v5e host has more cores than this

    config.augment.size = 224  # [repo]
    config.augment.crop_scale = (0.08, 1.0)  # [repo]
    config.augment.flip = 0.5  # [repo]
    config.augment.auto_augment = True  # [repo] the ImageNet policy; with it no color jitter, gray or blur:
    config.augment.jitter = 0.0  # [repo]
    config.augment.gray = 0.0  # [repo]
    config.augment.blur = 0.0  # [repo]

    config.model.encoder = "resnet50"  # [paper] the only architecture it tests
    config.model.head.hidden = (2048,)  # [repo] two layers are the paper's, the width is the repository's
    config.model.head.dim = 128  # [repo]
    config.model.head.batch_norm = True  # [default] as SimCLR's head

    config.objective.preset = "xclr"
    config.objective.graph = "class_text"  # [paper] cosine of "a photo of a {class}" by a sentence transformer
    config.objective.temperature = 0.1  # [repo] tau
    config.objective.target_temperature = 0.1  # [repo] tau_s; keep the batch size with it, the target depends on both

    config.optimizer.name = "lars"  # [repo]
    config.optimizer.learning_rate = 0.075  # [repo] reads it as the absolute rate; it is SimCLR's base rate with
    config.optimizer.lr_scaling = "sqrt"  # [default] sqrt scaling: peak 0.075 * sqrt(1024) = 2.4
    config.optimizer.weight_decay = 1e-4  # [default] of the same SimCLR command; 1e-6 is the alternative
    config.optimizer.momentum = 0.9  # [default] SimCLR
    config.optimizer.warmup = 0.1  # [repo] 10 of 100 epochs, its own choice
    config.optimizer.schedule = "cosine"  # [repo] its own choice

    config.precision.compute = "bfloat16"  # [default] the TPU's native type; parameters and loss stay float32
    config.mesh.topology = "v5e:4x4"  # 64 images a chip

    config.eval.suite = "probe"
    config.eval.split = "validation"
    config.eval.batch_size = 1024
    config.eval.online_probe = True  # [default] changes nothing of the encoder, and takes 0.2 % of the work of a step
    config.checkpoint.every = 1251  # one epoch
    config.log.every = 50
    return smoke(config) if small else config
