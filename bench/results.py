"""What was measured, as tables and as JSON."""

import statistics

from rows import FIGURES, TARGETS

# A figure is shown beside its ratio to these.
REFERENCES = {"veth": "/ veth", "c": "/ C"}
ACROSS_REFERENCES = {"veth-bridge": "/ bridge", "c": "/ C"}


class Results:
    def __init__(self, labels):
        # The label of each subject, in the order of the tables.
        self.labels = labels
        self.values = {}
        self.notes = []

    def add(self, figure, subject, value):
        self.values.setdefault(figure, {}).setdefault(subject, []).append(value)

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def median(self, figure, subject):
        """None if there is no such figure."""
        values = self.values.get(figure, {}).get(subject)
        return statistics.median(values) if values else None

    def ratio(self, figure, subject, reference):
        value, against = self.median(figure, subject), self.median(figure, reference)
        return value / against if value is not None and against else None

    def show(self):
        for name, figure in FIGURES.items():
            if name not in self.values:
                continue
            references = ACROSS_REFERENCES if name == "across" else REFERENCES
            header = [f"{figure.title} ({figure.unit})", "median", "min", "max", *references.values()]
            lines = [self._line(name, key, references) for key in self.labels if key in self.values[name]]
            print_table([header, *lines])
        lines = [["Target", "wanted", "measured", ""], *map(self._target_line, TARGETS)]
        print_table(lines)
        for note in self.notes:
            print(f"Note: {note}")

    def _line(self, name, key, references):
        values, digits = self.values[name][key], FIGURES[name].digits
        numbers = [f"{number:.{digits}f}" for number in (statistics.median(values), min(values), max(values))]
        ratios = [self.ratio(name, key, reference) for reference in references]
        return [self.labels[key], *numbers, *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)]

    def judge(self, target):
        """The value that counts, or None if it wasn't measured."""
        if target.reference is None:
            return self.median(target.figure, target.subject)
        return self.ratio(target.figure, target.subject, target.reference)

    def _target_line(self, target):
        wanted = f"{'at most' if target.is_ceiling else 'at least'} {target.bound:g}"
        value = self.judge(target)
        if value is None:
            return [target.title, wanted, "-", "not measured"]
        shown = f"{value:.0f}" if value >= 1000 else f"{value:.2f}"
        return [target.title, wanted, shown, "met" if target.is_met(value) else "NOT MET"]

    def as_json(self):
        figures = {}
        for name, subjects in self.values.items():
            figures[name] = {
                "title": FIGURES[name].title,
                "unit": FIGURES[name].unit,
                "subjects": {key: summary(values) for key, values in subjects.items()},
            }
        targets = []
        for target in TARGETS:
            value = self.judge(target)
            targets.append({
                "title": target.title,
                "at_most" if target.is_ceiling else "at_least": target.bound,
                "value": value,
                "met": None if value is None else target.is_met(value),
            })
        return {"labels": self.labels, "figures": figures, "targets": targets, "notes": self.notes}


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


def print_table(rows):
    """The first column to the left, numbers to the right, a rule below the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = max(widths[0], 50)
    rows.insert(1, ["-" * width for width in widths])
    print()
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:]))]
        print("  ".join(cells).rstrip())
