"""Config keys of the records and of the views that are made of their images."""

from xsample_jax.augment.autoaugment import MOST_MAGNITUDE, MOST_RANDOM
from xsample_jax.config.key import Key
from xsample_jax.data.sources import SOURCES

DATA = {
    "source": Key(
        str,
        "emoji",
        "emoji (embedded in the package), emoji_folder (a copy of it with other embeddings), records (a prepared "
        "folder), folder (of images, prepared into a cache when a run starts: docs/data.md) or vectors (a prepared "
        "folder of vectors instead of images: docs/vectors.md).",
        choices=SOURCES,
    ),
    "path": Key(
        str,
        None,
        "Folder of the dataset (manifest.json inside), here or gs://BUCKET/NAME; not for emoji.",
        optional=True,
    ),
    "split": Key(str, "train", "Split that is trained on."),
    "fingerprint": Key(
        str, None, "Refuse to open a dataset whose manifest has another fingerprint. None: do not check.", optional=True
    ),
    "mix": Key(
        tuple[dict, ...],
        (),
        "Other datasets to train on as well: {path: its folder, share: of the images drawn}. The rest of the draws "
        "are from data.path, which alone is evaluated on.",
    ),
    "balance": Key(
        float,
        0.0,
        "Rare classes more often: a class of n images is drawn n ** (1 - balance) times. 0: images alike; 0.5: square "
        "root; 1: classes alike.",
        minimum=0,
        maximum=1,
    ),
    "cache": Key(
        str,
        "none",
        "ram: read the records of a folder into the memory of every host first, for small datasets on slow disks. "
        "decoded: keep every training image in memory once it is decoded, for small datasets on slow processors. disk: "
        "copy shards that are in a bucket to the disk of every host (docs/data.md). none: read them where they are.",
        choices=("none", "ram", "decoded", "disk"),
    ),
    "image_size": Key(
        int,
        64,
        "Side in pixels of the uint8 images that the host delivers; of data.source=vectors, their width.",
        minimum=1,
        maximum=2**16,
    ),
    "fit": Key(
        str,
        "crop",
        "How an image that is not square becomes one, in training and evaluation: crop (its center) or pad (all of it, "
        "on gray; with alpha, on the background).",
        choices=("crop", "pad"),
    ),
    "caption": Key(
        str,
        "first",
        "Which caption (and embedding) of an image: first, random (another each time it is seen; first in evaluation), "
        "mean (embeddings only), or its index as text.",
        choices=("first", "random", "mean", "0", "1", "2", "3"),
    ),
    "hierarchy": Key(
        tuple[str, ...],
        ("group", "subgroup"),
        "Attributes of the records above the class in the class tree, root first, for the hierarchy graph.",
    ),
    "side": Key(
        tuple[dict, ...],
        (),
        "Further entries of every record: {name: cluster, group, target, labels, class_temperature or weight; file: a "
        ".npz by record index, or attributes: names of attributes} (docs/side_information.md). Those that nothing "
        "reads are not opened.",
    ),
    "batches_of": Key(
        str,
        None,
        "Every batch is of one label, or of one cluster or group of data.side; records that do not fill a last batch "
        "are left out, others each time. None: of all records.",
        choices=("label", "cluster", "group"),
        optional=True,
    ),
    "label": Key(
        str,
        None,
        "Attribute of the records that is their class, in training and evaluation. None: the class that they have.",
        optional=True,
    ),
    "forget": {
        "classes": Key(
            tuple[int, ...], (), "Classes to forget (docs/plans.md): numbers of the classes, from 0.", minimum=0
        ),
        "ids": Key(str, None, "Records to forget: a text file with the id of one on each line.", optional=True),
        "share": Key(
            float,
            0.5,
            "Share of a batch that is images to forget, its first rows. 0: none, they are left out of training.",
            minimum=0,
            below=1,
        ),
        "meets": Key(int, 4, "Batches in a row that have the same images to forget.", minimum=1, maximum=2**16),
    },
    "tasks": {
        "count": Key(
            int, 0, "Tasks that follow each other, each of other classes (docs/plans.md). 0: none.", minimum=0
        ),
        "steps": Key(int, 100, "Batches of a task.", minimum=1),
        "keep": Key(int, 20, "Images of every class of earlier tasks that are rehearsed; 0: none.", minimum=0),
        "share": Key(float, 0.25, "Share of a batch that is rehearsed, its first rows.", above=0, below=1),
    },
    "episodes": {
        "way": Key(
            int, 0, "Every batch is an episode of this many classes (docs/plans.md). 0: no episodes.", minimum=0
        ),
        "shot": Key(int, 1, "Images of each class that are its support.", minimum=1),
        "query": Key(int, 4, "Other images of each class, which are its queries.", minimum=1),
    },
    "samples_per_class": Key(
        int,
        None,
        "Train on this many images of every class, drawn by the seed (fewer are part of more). None: on all.",
        minimum=1,
        optional=True,
    ),
    "fraction": Key(
        float,
        1.0,
        "Train on this share of the images of the split, drawn by the seed (fewer are part of more).",
        above=0,
        maximum=1,
    ),
    "label_noise": Key(
        float,
        0.0,
        "Share of the training images whose class is another one, drawn by the seed. Evaluation is not touched.",
        minimum=0,
        maximum=1,
    ),
    "caption_noise": Key(
        float,
        0.0,
        "Share of the training images that have the captions of another image, drawn by the seed.",
        minimum=0,
        maximum=1,
    ),
    "on_error": Key(
        str,
        "raise",
        "Broken record: raise, or skip (counted and logged; in training another record, drawn at random, takes its "
        "place).",
        choices=("raise", "skip"),
    ),
    "threads": Key(int, 4, "Decoding threads of a host.", minimum=1, maximum=1024),
    "prefetch": Key(int, 4, "Batches decoded ahead of the device.", minimum=1, maximum=1024),
}

AUGMENT = {
    "size": Key(int, 32, "Side in pixels of the views that the encoder sees.", minimum=8, maximum=2**13),
    "crop_scale": Key(
        tuple[float, ...],
        (0.08, 1.0),
        "Random resized crop: area range as a share of the image; () = plain resize.",
        above=0,
        maximum=1,
        lengths=(0, 2),
        increasing=True,
    ),
    "local_size": Key(
        int, 16, "Side in pixels of small crops, for objectives that have them (swav).", minimum=8, maximum=2**13
    ),
    "local_crop_scale": Key(
        tuple[float, ...],
        (0.05, 0.3),
        "Small crops: area range as a share of the image.",
        above=0,
        maximum=1,
        lengths=(2,),
        increasing=True,
    ),
    "crop_ratio": Key(
        tuple[float, ...],
        (0.75, 4 / 3),
        "Random resized crop: aspect ratio range (log-uniform).",
        above=0,
        lengths=(2,),
        increasing=True,
    ),
    "flip": Key(float, 0.5, "Probability of a horizontal flip.", minimum=0, maximum=1),
    "jitter": Key(float, 0.8, "Probability of color jitter.", minimum=0, maximum=1),
    "jitter_strength": Key(
        tuple[float, ...],
        (0.4, 0.4, 0.4, 0.1),
        "Color jitter: brightness, contrast, saturation, hue ranges.",
        minimum=0,
        maximum=1,
        lengths=(4,),
    ),
    "gray": Key(float, 0.2, "Probability of grayscale.", minimum=0, maximum=1),
    "blur": Key(float, 0.0, "Probability of Gaussian blur.", minimum=0, maximum=1),
    "blur_sigma": Key(
        tuple[float, ...],
        (0.1, 2.0),
        "Gaussian blur: range of sigma in pixels at side 224, scaled to augment.size.",
        above=0,
        lengths=(2,),
        increasing=True,
    ),
    "solarize": Key(
        float, 0.0, "Probability of solarization (values from one half on are inverted).", minimum=0, maximum=1
    ),
    "per_view": Key(
        tuple[dict, ...],
        (),
        "Changes of keys above for single views, as ({'blur': 1.0}, {'blur': 0.1, 'solarize': 0.2}); the last entry "
        "serves all later views (docs/augmentation.md). (): all views alike.",
    ),
    "auto_augment": Key(bool, False, "AutoAugment, ImageNet policy, one draw per image and view."),
    "rand_augment": Key(
        tuple[int, ...],
        (),
        f"RandAugment: operations on an image (1 to {MOST_RANDOM}) and their magnitude (0 to {MOST_MAGNITUDE}), as "
        "(2, 9). (): none.",
        minimum=0,
        lengths=(0, 2),
    ),
    "background": Key(
        str,
        "random_color",
        "Background under images with alpha: random_color per view, white, or gray.",
        choices=("random_color", "white", "gray"),
    ),
    "bits": Key(
        int,
        0,
        "Extra channels with bits of a hash of the image, alike in all views: a competing feature.",
        minimum=0,
        maximum=32,
    ),
    "noise": Key(
        float,
        0.0,
        "Of vectors: Gaussian noise, in standard deviations of each feature over the batch.",
        minimum=0,
        maximum=10,
    ),
    "dropout": Key(
        float, 0.0, "Of vectors: probability that a feature becomes its mean over the batch.", minimum=0, maximum=1
    ),
    "mean": Key(tuple[float, ...], (0.485, 0.456, 0.406), "Per-channel mean taken off (0..1 scale).", lengths=(3,)),
    "std": Key(
        tuple[float, ...],
        (0.229, 0.224, 0.225),
        "Per-channel standard deviation divided by (0..1 scale).",
        above=0,
        lengths=(3,),
    ),
}
