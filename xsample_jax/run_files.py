"""The files of a run folder by name; its checkpoints: checkpoint_files.py."""

CONFIG = "config.json"  # the resolved config
JSONL = "metrics.jsonl"  # one line of metrics at a time
EVALUATION = "evaluation.json"  # metrics of the final evaluation: the run is finished
EXAMPLES = "evaluation.npz"  # what those metrics are means of
SNAPSHOT = "report_data.npz"  # what the report shows beside numbers
REPORT = "report.html"
PROFILE = "profile"
