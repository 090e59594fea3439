"""What the demo and the soak test print, and its memory of what was not as it should be."""


class Report:
    def __init__(self):
        self.checks = 0
        self.failures = []
        self._steps = 0

    def step(self, title):
        self._steps += 1
        print(f"\n{self._steps}. {title}", flush=True)

    def say(self, text):
        for line in text.rstrip("\n").split("\n"):
            print(f"   {line}", flush=True)

    def check(self, what, seen, expected):
        """Compares what was seen with what should be seen; returns whether they agree."""
        self.checks += 1
        agrees = seen == expected
        if agrees:
            self.say(f"ok      {what}: {seen}")
        else:
            self.failures.append(f"{what}: expected {expected!r}, seen {seen!r}")
            self.say(f"FAILED  {what}: expected {expected!r}, seen {seen!r}")
        return agrees

    def bound(self, what, seen, most, unit=""):
        """Like check, for what may be less."""
        self.checks += 1
        text = f"{what}: {seen:.6g}{unit}, at most {most:.6g}{unit}"
        if seen <= most:
            self.say(f"ok      {text}")
        else:
            self.failures.append(text)
            self.say(f"FAILED  {text}")

    def cell(self, what, seen, expected):
        """Like check, for a cell of a table: it prints nothing and returns what to print."""
        self.checks += 1
        if seen == expected:
            return seen
        self.failures.append(f"{what}: expected {expected!r}, seen {seen!r}")
        return f"{seen} (EXPECTED {expected})"

    def table(self, header, rows):
        rows = [[str(cell) for cell in row] for row in [header, *rows]]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        rows.insert(1, ["-" * width for width in widths])
        for row in rows:
            self.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())

    def summary(self):
        if not self.failures:
            print(f"\nAll {self.checks} checks passed.", flush=True)
            return
        print(f"\n{len(self.failures)} of {self.checks} checks FAILED:", flush=True)
        for failure in self.failures:
            self.say(failure)
