"""The measured figures, as tables and as JSON."""

import statistics

from kinds import SUFFIX
from rows import BEFORE, FIGURES, TARGETS

# A figure is shown with its ratio to these subjects, if it has no others.
REFERENCES = {"/ veth": "veth", "/ C": "c"}


class Results:
    def __init__(self, labels, figures=FIGURES, targets=TARGETS, references=REFERENCES):
        # The label of each subject, in the order of the tables.
        self.labels = labels
        self.figures, self.targets, self.references = figures, targets, references
        # Values by figure, subject and round.
        self.values = {}
        self.notes = []

    def add(self, figure, subject, value, round_number):
        self.values.setdefault(figure, {}).setdefault(subject, {})[round_number] = value

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def median(self, figure, subject):
        """Returns None if there is no such figure."""
        values = self._by_round(figure, subject).values()
        return statistics.median(values) if values else None

    def ratio(self, figure, subject, reference):
        """Returns the median of the ratios of two subjects, round by round: what a round measures, it measures at one time."""
        return median_ratio(self._by_round(figure, subject), self._by_round(figure, reference))

    def twins_ratio(self, figure, twin, subject):
        """Returns the same of two figures of a subject."""
        return median_ratio(self._by_round(figure, subject), self._by_round(twin, subject))

    def _by_round(self, figure, subject):
        return self.values.get(figure, {}).get(subject, {})

    def show(self):
        for name, figure in self.figures.items():
            keys = [key for key in self.labels if any(self._by_round(each, key) for each in (name, name + SUFFIX))]
            if not keys:
                continue
            references = self.references if figure.references is None else figure.references
            earlier = [key for key in BEFORE.values() if key in keys]
            references = references | {"/ before": key for key in earlier[-1:]}
            header = [f"{figure.title} ({figure.unit})", "median", "min", "max", *references]
            has_ipv6 = name + SUFFIX in self.values
            if has_ipv6:
                header += ["IPv6", "min", "max", "/ IPv4"]
            print_table([header, *(self._line(name, key, references, has_ipv6) for key in keys)])
        lines = [["Target", "wanted", "measured", ""], *map(self._target_line, self._targets())]
        print_table(lines)
        for note in self.notes:
            print(f"Note: {note}")

    def _line(self, name, key, references, has_ipv6):
        cells = [*self._cells(name, key, self.figures[name].digits)]
        for reference in references.values():
            # It is the same for all subjects, or each has its own.
            against = reference.get(key) if isinstance(reference, dict) else reference
            cells.append(shown(self.ratio(name, key, against), 2))
        if has_ipv6:
            cells += self._cells(name + SUFFIX, key, self.figures[name].digits)
            cells.append(shown(self.twins_ratio(name + SUFFIX, name, key), 2))
        return [self.labels[key], *cells]

    def _cells(self, name, key, digits):
        """Formats median, least and greatest value."""
        values = self._by_round(name, key).values()
        numbers = (statistics.median(values), min(values), max(values)) if values else [None] * 3
        return [shown(number, digits) for number in numbers]

    def judge(self, target):
        """Returns the value that is compared with the bound, or None if it wasn't measured."""
        if target.twin is not None:
            return self.twins_ratio(target.figure, target.twin, target.subject)
        if target.reference is None:
            return self.median(target.figure, target.subject)
        return self.ratio(target.figure, target.subject, target.reference)

    def _target_line(self, target):
        wanted = f"{target.wanted} {target.bound:g}"
        value = self.judge(target)
        if value is None:
            return [target.title, wanted, "-", "not measured"]
        measured = shown(value, 0 if value >= 1000 else 2)
        return [target.title, wanted, measured, "met" if target.is_met(value) else "NOT MET"]

    def _targets(self):
        """Returns the targets of what this run is about."""
        return [each for each in self.targets if each.figure in self.values and each.subject in self.labels]

    def as_json(self):
        figures = {}
        for name, subjects in self.values.items():
            figure = self.figures[name.removesuffix(SUFFIX)]
            figures[name] = {
                "title": figure.title + (", IPv6" if name.endswith(SUFFIX) else ""),
                "unit": figure.unit,
                "subjects": {key: summary(list(values.values())) for key, values in subjects.items()},
            }
            if name.endswith(SUFFIX):
                twin = name.removesuffix(SUFFIX)
                figures[name]["of_ipv4"] = {key: self.twins_ratio(name, twin, key) for key in subjects}
        targets = []
        for target in self._targets():
            value = self.judge(target)
            targets.append({
                "title": target.title,
                target.wanted.replace(" ", "_"): target.bound,
                "value": value,
                "met": None if value is None else target.is_met(value),
            })
        return {"labels": self.labels, "figures": figures, "targets": targets, "notes": self.notes}


def median_ratio(values, against):
    """Returns the median over the rounds that both have, or None if there are none."""
    ratios = [value / against[number] for number, value in values.items() if against.get(number)]
    return statistics.median(ratios) if ratios else None


def shown(number, digits):
    return "-" if number is None else f"{number:.{digits}f}"


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


def print_table(rows):
    """Aligns the first column to the left and numbers to the right, and draws a line below the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = max(widths[0], 50)
    rows.insert(1, ["-" * width for width in widths])
    print()
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:]))]
        print("  ".join(cells).rstrip())
