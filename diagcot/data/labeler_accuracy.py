"""Accuracy of the rule-based labeler on NegBio's gold labels of IU-Xray reports.

`python -m diagcot.data.labeler_accuracy --gold FOLDER --reports FOLDER` prints the table of docs/data.md.
"""

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from diagcot.data.readers.iu_xray import IuXray
from diagcot.data.reports.labeler import label

GOLD_CLASSES: dict[str, tuple[str, ...]] = {
    "Cardiomegaly": ("Cardiomegaly",),
    "Lung Lesion": ("Mass", "Nodule"),
    "Edema": ("Edema",),
    "Consolidation": ("Consolidation",),
    "Pneumonia": ("Pneumonia",),
    "Atelectasis": ("Atelectasis",),
    "Pneumothorax": ("Pneumothorax",),
    "Pleural Effusion": ("Effusion",),
    "Pleural Other": ("Pleural_Thickening",),
    "No Finding": ("normal",),
}
"""CheXpert label -> classes of NegBio's gold labels that mean the same."""


def measure(
    gold: Mapping[str, Mapping[str, str]], reports: Mapping[str, str], labeled: Callable[[str], dict[str, int]] = label
) -> dict[str, tuple[int, float, float, float]]:
    """Label -> (positives in gold, precision, recall, F1); a label in doubt counts as absent, as in the gold labels."""
    predictions = {uid: labeled(reports[uid]) for uid in gold}
    scores = {}
    for name, classes in GOLD_CLASSES.items():
        true = {uid for uid, row in gold.items() if any(row[c] == "1" for c in classes)}
        predicted = {uid for uid, labels in predictions.items() if labels.get(name) == 1}
        hit = len(true & predicted)
        precision, recall = hit / max(len(predicted), 1), hit / max(len(true), 1)
        scores[name] = (len(true), precision, recall, 2 * hit / max(len(true) + len(predicted), 1))
    return scores


def read_gold(folder: Path, ids: Iterable[str] | None = None) -> dict[str, dict[str, str]]:
    """Report id -> its row in NegBio's gold table, for all reports or only `ids`."""
    with (folder / "openi_gld_std14.csv").open(encoding="utf-8", newline="") as rows:
        gold = {row["filename"]: row for row in csv.DictReader(rows)}
    return gold if ids is None else {uid: gold[uid] for uid in ids if uid in gold}


def main() -> None:
    """Print the table of precision, recall and F1."""
    parser = argparse.ArgumentParser(description="Measure the labeler against NegBio's gold labels of IU-Xray reports.")
    parser.add_argument("--gold", type=Path, required=True, help="folder of openi_gld_std14.csv")
    parser.add_argument("--reports", type=Path, required=True, help="folder with NLMCXR_reports.tgz")
    parser.add_argument("--all", action="store_true", help="all 3,851 reports instead of the 771 of the test set")
    options = parser.parse_args()
    reader = IuXray(options.reports)
    reports = {}
    for patient in reader.patients():
        for study in reader.studies(patient):
            reports[study.id] = f"{study.findings}\n{study.impression}"
    ids = None if options.all else (options.gold / "openi-testset.txt").read_text().split()
    gold = read_gold(options.gold, ids)
    print(f"| label | gold positives of {len(gold)} | precision | recall | F1 |\n|---|---|---|---|---|")
    for name, (count, precision, recall, f1) in measure(gold, reports).items():
        print(f"| {name} | {count} | {precision:.3f} | {recall:.3f} | {f1:.3f} |")


if __name__ == "__main__":
    main()
