//! Turns of conversations that wait for the answer before them. Pure but for the order in which it is told of events.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
};

use crate::workload::{Due, Request};

/// What was said in an earlier turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said<'a> {
    /// By the user.
    pub(super) prompt: &'a str,
    /// By the model, as received.
    pub(super) answer: &'a str,
}

/// The end of a request, as the load loop is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// Position in the job.
    pub(super) index: usize,
    /// When its slot came free.
    pub(super) at_ns: i64,
    /// When the answer ended and what it was, or that it failed; `None` where nobody asked.
    pub(super) answer: Option<(i64, Result<String, String>)>,
}

/// What the end of a request means for its conversation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// There is no further turn: the slot is free.
    Over,
    /// The next turn was put on the list.
    GoesOn,
    /// The turns that will never be sent, and why.
    Breaks(Vec<usize>, String),
}

/// All turns of a job that follow an answer.
pub(super) struct Followers<'a> {
    requests: &'a [Request],
    /// The turn after each request that has one.
    next: HashMap<usize, usize>,
    /// Answers to turns that have a further one.
    answers: HashMap<usize, String>,
    /// By due time.
    due: BinaryHeap<Reverse<(i64, usize)>>,
    /// Neither sent nor given up.
    open: BTreeSet<usize>,
}

impl<'a> Followers<'a> {
    pub(super) fn new(requests: &'a [Request]) -> Self {
        let before = |(index, request): (usize, &Request)| match request.due {
            Due::After { request, .. } => Some((usize::try_from(request).ok()?, index)),
            Due::AtNs(_) | Due::WhenFree => None,
        };
        let next: HashMap<usize, usize> = requests.iter().enumerate().filter_map(before).collect();
        let open = next.values().copied().collect();
        Self { requests, next, answers: HashMap::new(), due: BinaryHeap::new(), open }
    }

    /// Whether a turn is still to come, on the list or after an answer that is not in yet.
    pub(super) fn any(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether the answer to this request will be asked for.
    pub(super) fn is_followed(&self, index: usize) -> bool {
        self.next.contains_key(&index)
    }

    /// When the next turn is due, of those whose answer is in.
    pub(super) fn next_due_ns(&self) -> Option<i64> {
        self.due.peek().map(|Reverse((due_ns, _))| *due_ns)
    }

    /// A turn that is due by now.
    pub(super) fn pop(&mut self, now_ns: i64) -> Option<(usize, i64)> {
        self.next_due_ns().filter(|due_ns| *due_ns <= now_ns)?;
        let Reverse((due_ns, index)) = self.due.pop()?;
        self.open.remove(&index);
        Some((index, due_ns))
    }

    /// Takes note of the end of a request.
    pub(super) fn ended(&mut self, ended: Ended) -> Then {
        let Some(&next) = self.next.get(&ended.index) else { return Then::Over };
        match ended.answer {
            Some((done_ns, Ok(answer))) => {
                self.answers.insert(ended.index, answer);
                let think_ns = match self.requests[next].due {
                    Due::After { think_ns, .. } => i64::try_from(think_ns).unwrap_or(i64::MAX / 2),
                    Due::AtNs(_) | Due::WhenFree => 0,
                };
                self.due.push(Reverse((done_ns.saturating_add(think_ns), next)));
                Then::GoesOn
            }
            Some((_, Err(_))) | None => {
                let turn = self.requests[ended.index].turn + 1;
                let why = format!("not sent: turn {turn} of this conversation failed");
                Then::Breaks(self.give_up(next), why)
            }
        }
    }

    /// A turn that could not be sent: it and those after it.
    pub(super) fn give_up(&mut self, first: usize) -> Vec<usize> {
        let after = |index: &usize| self.next.get(index).copied();
        let lost: Vec<usize> = std::iter::successors(Some(first), after).collect();
        for index in &lost {
            self.open.remove(index);
        }
        lost
    }

    /// Everything that was never sent.
    pub(super) fn give_up_all(&mut self) -> Vec<usize> {
        self.due.clear();
        std::mem::take(&mut self.open).into_iter().collect()
    }

    /// What was said before this turn.
    pub(super) fn before(&self, index: usize) -> Vec<Said<'_>> {
        let earlier = |index: &usize| match self.requests[*index].due {
            Due::After { request, .. } => usize::try_from(request).ok(),
            Due::AtNs(_) | Due::WhenFree => None,
        };
        let mut said: Vec<Said<'_>> = std::iter::successors(earlier(&index), earlier)
            .map(|index| Said {
                prompt: &self.requests[index].prompt,
                answer: self.answers.get(&index).map_or("", String::as_str),
            })
            .collect();
        said.reverse();
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two conversations of three turns and one; 7 ns to think.
    fn requests() -> Vec<Request> {
        let mut requests: Vec<Request> =
            (0..4).map(|id| crate::execute::engine::tests::request(id, 1)).collect();
        for turn in [1, 2] {
            requests[turn].turn = turn as u32;
            requests[turn].due = Due::After { request: turn as u64 - 1, think_ns: 7 };
        }
        requests
    }

    fn end(index: usize, done_ns: i64, answer: Result<&str, &str>) -> Ended {
        let answer = answer.map(str::to_owned).map_err(str::to_owned);
        Ended { index, at_ns: done_ns + 1, answer: Some((done_ns, answer)) }
    }

    #[test]
    fn a_turn_follows_the_answer_before_it_and_knows_what_was_said() {
        let requests = requests();
        let mut followers = Followers::new(&requests);
        assert!(followers.any() && followers.is_followed(0) && !followers.is_followed(2));
        assert_eq!(followers.ended(end(3, 50, Ok("alone"))), Then::Over);
        assert_eq!(followers.ended(end(0, 100, Ok("one"))), Then::GoesOn);
        assert_eq!((followers.pop(106), followers.pop(107)), (None, Some((1, 107))));
        assert_eq!(followers.before(1), [Said { prompt: "prompt 0", answer: "one" }]);
        followers.ended(end(1, 200, Ok("two")));
        assert_eq!(followers.pop(207), Some((2, 207)));
        let before = followers.before(2);
        assert_eq!(before[1], Said { prompt: "prompt 1", answer: "two" });
        assert_eq!((before.len(), followers.any()), (2, false));
        assert_eq!(followers.ended(end(2, 300, Ok("three"))), Then::Over);
    }

    #[test]
    fn a_failed_turn_takes_those_after_it_along() {
        let requests = requests();
        let mut followers = Followers::new(&requests);
        let why = "not sent: turn 1 of this conversation failed".to_owned();
        assert_eq!(followers.ended(end(0, 100, Err("reset"))), Then::Breaks(vec![1, 2], why));
        assert!(!followers.any());
        let mut interrupted = Followers::new(&requests);
        interrupted.ended(end(0, 100, Ok("one")));
        assert_eq!(interrupted.give_up_all(), [1, 2]);
        assert_eq!((interrupted.pop(1000), interrupted.any()), (None, false));
    }
}
