#!/usr/bin/env python3
"""Each broken promise is found by its name, and a clean history is clean."""
import time
import unittest

from history import History


def value(number, producer="p"):
    return (producer, 0, number)


def ending(history, records, again=None, topics=()):
    stored = {0: records}
    return set(history.finish(stored, stored if again is None else {0: again}, set(topics)))


class Judged(unittest.TestCase):
    def setUp(self):
        self.history = History()

    def test_a_clean_history_is_clean(self):
        self.history.ack(value(0), 0)
        self.history.ack(value(1), 1)
        self.history.lost_sight(value(2))
        self.history.read("r", 0, 0, value(0))
        self.history.read("r", 0, 1, value(1))
        self.history.end(time.monotonic(), 0, 2)
        self.history.committed("g", 0, 1)
        self.history.group_read("g", [value(0), value(1)])
        self.assertEqual(ending(self.history, [(0, value(0)), (1, value(1)), (2, value(2))]), set())

    def test_what_the_log_may_not_do(self):
        for records, kind in [
            ([], "lost-write"),
            ([(0, value(0)), (1, value(0))], "duplicate"),
            ([(0, value(5))], "inconsistent-offsets"),
            ([(0, value(0)), (2, value(1))], "poll-skip"),
            ([(0, value(0)), (1, value(2)), (2, value(1))], "nonmonotonic-send"),
            ([(0, value(0)), (1, value(9))], "phantom"),
        ]:
            history = History()
            history.ack(value(0), 0)
            self.assertIn(kind, ending(history, records), records)

    def test_what_a_restart_may_not_change(self):
        self.history.ack(value(0), 0)
        self.assertEqual(ending(self.history, [(0, value(0))], again=[]), {"cold-start-equal"})

    def test_what_an_ack_may_not_say(self):
        self.history.ack(value(0), -1)
        self.assertIn("zero-offset", self.history.found)

    def test_what_a_reader_may_not_see(self):
        self.history.read("r", 0, 3, value(3))
        self.history.read("r", 0, 5, value(5))
        self.history.read("r", 0, 5, value(5))
        self.history.out_of_range("r", 0, 4)
        self.assertEqual(set(self.history.found), {"poll-skip", "nonmonotonic-poll", "spurious-out-of-range"})

    def test_what_an_end_offset_may_not_be(self):
        self.history.ack(value(0), 0)
        self.history.end(time.monotonic(), 0, 0)
        self.assertEqual(set(self.history.found), {"end-offset-stale"})
        self.history.end(0.0, 0, 5)
        self.history.end(0.0, 0, 4)
        self.assertIn("hw-regress", self.history.found)

    def test_what_a_group_may_not_lose(self):
        self.history.committed("g", 0, 7)
        self.history.committed("g", 0, 6)
        self.history.committed("g", 0, -1)
        self.history.group_read("g", [value(0)])
        self.history.ack(value(1), 1)
        found = ending(self.history, [(0, value(0)), (1, value(1))])
        self.assertLessEqual({"group-offset-regress", "group-offset-lost", "unseen"}, found)

    def test_what_metadata_may_not_lose(self):
        self.history.create("t")
        self.assertEqual(ending(self.history, []), {"metadata-lost"})


if __name__ == "__main__":
    unittest.main()
