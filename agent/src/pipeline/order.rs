//! Answers come as the worker gives them; records leave in the order of their positions.
//!
//! Invariant: what was opened first leaves first, and nothing leaves without its answer. Not here: what an answer is.

use std::collections::VecDeque;

/// Names one open item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Debug)]
pub struct InOrder<T, A> {
    waiting: VecDeque<(T, Option<A>)>,
    /// Ticket of the front.
    front: u64,
}

impl<T, A> Default for InOrder<T, A> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), front: 0 }
    }
}

impl<T, A> InOrder<T, A> {
    pub fn open(&mut self, item: T) -> Ticket {
        self.waiting.push_back((item, None));
        Ticket(self.front + self.waiting.len() as u64 - 1)
    }

    /// The first answer counts; a ticket that has left is ignored.
    pub fn answer(&mut self, ticket: Ticket, answer: A) {
        let slot = ticket.0.checked_sub(self.front).and_then(|at| self.waiting.get_mut(at as usize));
        if let Some((_, slot @ None)) = slot {
            *slot = Some(answer);
        }
    }

    /// The oldest item, once it has its answer.
    pub fn pop(&mut self) -> Option<(T, A)> {
        self.waiting.front()?.1.as_ref()?;
        let (item, answer) = self.waiting.pop_front()?;
        self.front += 1;
        Some((item, answer?))
    }

    /// How many wait for an answer, or for one before them.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_leave_in_the_order_in_which_they_came() {
        let mut order = InOrder::default();
        let tickets: Vec<Ticket> = ["a", "b", "c"].into_iter().map(|item| order.open(item)).collect();
        order.answer(tickets[1], 2);
        order.answer(tickets[2], 3);
        assert_eq!(order.pop(), None);
        order.answer(tickets[0], 1);
        order.answer(tickets[0], 9);
        assert_eq!([order.pop(), order.pop()], [Some(("a", 1)), Some(("b", 2))]);
        order.answer(tickets[0], 9);
        let late = order.open("d");
        order.answer(late, 4);
        assert_eq!([order.pop(), order.pop(), order.pop()], [Some(("c", 3)), Some(("d", 4)), None]);
        assert!(order.is_empty());
    }
}
