//! A graph of dependency edges between calls, and the search for a cycle in it.

use crate::KeyBuf;
use std::collections::VecDeque;

/// Why one call must come before another. The first three are Adya's dependencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EdgeKind {
    /// Read dependency: the second call read the version that the first one wrote.
    Wr,
    /// Write dependency: the second call overwrote the version that the first one wrote.
    Ww,
    /// Anti-dependency: the first call read a version that the second one overwrote.
    Rw,
    /// Predicate anti-dependency: the first call queried items and found none where the second one
    /// wrote one.
    PredicateRw,
    /// A write dependency between blind writes, inferred from a read: the first call precedes a
    /// read of the version that the second one wrote.
    InferredWw,
    /// The second call was rejected because of the first one.
    Rejection,
    /// The second call was rejected because the incarnation of a lock that the first one observed
    /// had ended.
    EndedIncarnation,
    /// The first call had returned before the second one began.
    RealTime,
}

impl EdgeKind {
    /// The anti-dependency of a read by key, or of one by query that found nothing.
    pub(super) fn anti_dependency(by_query: bool) -> Self {
        if by_query {
            EdgeKind::PredicateRw
        } else {
            EdgeKind::Rw
        }
    }

    pub(super) fn is_anti_dependency(self) -> bool {
        matches!(self, EdgeKind::Rw | EdgeKind::PredicateRw)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Edge<'a> {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) kind: EdgeKind,
    /// The item or lock; `None` for real time.
    pub(super) key: Option<&'a KeyBuf>,
}

/// The first nodes are the calls. Then come the creations of locks, then barriers of real time.
pub(super) struct Graph<'a> {
    edges: Vec<Edge<'a>>,
    nodes: usize,
    first_barrier: usize,
}

/// The number of nodes from which a short cycle is searched for: a cycle of a few calls is easier
/// to understand than one of hundreds.
const STARTS: usize = 8;

impl<'a> Graph<'a> {
    pub(super) fn new(calls: usize) -> Self {
        Graph {
            edges: Vec::new(),
            nodes: calls,
            first_barrier: usize::MAX,
        }
    }

    pub(super) fn add(&mut self, from: usize, to: usize, kind: EdgeKind, key: &'a KeyBuf) {
        if from != to {
            self.nodes = self.nodes.max(from + 1).max(to + 1);
            let key = Some(key);
            self.edges.push(Edge {
                from,
                to,
                kind,
                key,
            });
        }
    }

    pub(super) fn extend(&mut self, edges: Vec<Edge<'a>>) {
        self.edges.extend(edges);
    }

    /// Adds the order of real time between intervals, each given by its node, its beginning and
    /// its end if it is known. A chain of barriers takes a few edges for each node instead of one
    /// for each pair.
    pub(super) fn add_real_time(
        &mut self,
        intervals: impl Iterator<Item = (usize, u64, Option<u64>)>,
    ) {
        // False is less than true: of equal times, beginnings come first, so that calls overlap.
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (node, begin, end) in intervals {
            self.nodes = self.nodes.max(node + 1);
            events.push((begin, false, node));
            events.extend(end.map(|end| (end, true, node)));
        }
        events.sort_unstable();
        self.first_barrier = self.nodes;
        let mut barrier = None;
        for (_, has_returned, node) in events {
            let next = if has_returned { self.nodes } else { node };
            let before = has_returned.then_some(node).into_iter().chain(barrier);
            self.edges.extend(before.map(|from| Edge {
                from,
                to: next,
                kind: EdgeKind::RealTime,
                key: None,
            }));
            if has_returned {
                barrier = Some(next);
                self.nodes += 1;
            }
        }
    }

    fn outgoing(&self) -> Outgoing {
        let mut begin = vec![0; self.nodes + 1];
        for edge in &self.edges {
            begin[edge.from + 1] += 1;
        }
        for node in 0..self.nodes {
            begin[node + 1] += begin[node];
        }
        let mut place = begin.clone();
        let mut sorted = vec![0; self.edges.len()];
        for (number, edge) in self.edges.iter().enumerate() {
            sorted[place[edge.from]] = number;
            place[edge.from] += 1;
        }
        Outgoing { begin, sorted }
    }

    fn edges_from(&self, outgoing: &Outgoing, node: usize) -> impl Iterator<Item = Edge<'a>> {
        let numbers = &outgoing.sorted[outgoing.begin[node]..outgoing.begin[node + 1]];
        numbers.iter().map(|number| self.edges[*number])
    }

    /// Returns the nodes that do not follow a cycle in topological order, and for each node the
    /// number of its predecessors that are not among these.
    fn topological_order(&self, outgoing: &Outgoing) -> (Vec<usize>, Vec<u32>) {
        let mut incoming = vec![0_u32; self.nodes];
        for edge in &self.edges {
            incoming[edge.to] += 1;
        }
        let free = (0..self.nodes).filter(|node| incoming[*node] == 0);
        let mut free: Vec<usize> = free.collect();
        let mut order = Vec::with_capacity(self.nodes);
        while let Some(node) = free.pop() {
            order.push(node);
            for edge in self.edges_from(outgoing, node) {
                incoming[edge.to] -= 1;
                if incoming[edge.to] == 0 {
                    free.push(edge.to);
                }
            }
        }
        (order, incoming)
    }

    /// Returns a cycle if there is one, a short one if that is easily found.
    pub(super) fn cycle(&self) -> Option<Vec<Edge<'a>>> {
        let outgoing = self.outgoing();
        let (order, incoming) = self.topological_order(&outgoing);
        if order.len() == self.nodes {
            return None;
        }

        // Each remaining node has a remaining predecessor, so the way back ends in a cycle.
        let remains = |node: usize| incoming[node] > 0;
        let mut before = vec![usize::MAX; self.nodes];
        for edge in self.edges.iter().filter(|edge| remains(edge.from)) {
            before[edge.to] = edge.from;
        }
        let mut node = (0..self.nodes).find(|node| remains(*node))?;
        let mut visited = vec![false; self.nodes];
        while !visited[node] {
            visited[node] = true;
            node = before[node];
        }
        let mut starts = vec![node];
        while starts.len() < STARTS && before[starts[starts.len() - 1]] != node {
            starts.push(before[starts[starts.len() - 1]]);
        }
        let cycles = starts.into_iter();
        let cycles = cycles.filter_map(|start| self.shortest_cycle(&outgoing, start, remains));
        cycles
            .min_by_key(|(steps, _)| *steps)
            .map(|(_, cycle)| cycle)
    }

    /// Searches breadth-first for a way from `start` back to it. Returns the number of steps, not
    /// counting those from a barrier, and the edges.
    fn shortest_cycle(
        &self,
        outgoing: &Outgoing,
        start: usize,
        remains: impl Fn(usize) -> bool,
    ) -> Option<(usize, Vec<Edge<'a>>)> {
        let mut reached: Vec<Option<Edge<'a>>> = vec![None; self.nodes];
        let mut steps = vec![usize::MAX; self.nodes];
        let mut queue = VecDeque::from([(0, start)]);
        while let Some((so_far, node)) = queue.pop_front() {
            if node == start && reached[start].is_some() {
                break;
            }
            let is_barrier = node >= self.first_barrier;
            let so_far = so_far + usize::from(!is_barrier);
            for edge in self.edges_from(outgoing, node) {
                if remains(edge.to) && so_far < steps[edge.to] {
                    steps[edge.to] = so_far;
                    reached[edge.to] = Some(edge);
                    if is_barrier {
                        queue.push_front((so_far, edge.to));
                    } else {
                        queue.push_back((so_far, edge.to));
                    }
                }
            }
        }
        let mut cycle = vec![reached[start]?];
        while cycle[cycle.len() - 1].from != start {
            cycle.push(reached[cycle[cycle.len() - 1].from]?);
        }
        cycle.reverse();
        Some((steps[start], cycle))
    }
}

/// The numbers of a graph's edges, sorted by the node they begin at, and where those of each node
/// begin.
struct Outgoing {
    begin: Vec<usize>,
    sorted: Vec<usize>,
}

/// Which calls and creations of locks come before each node of a graph without cycles, one bit each.
pub(super) struct HappensBefore {
    bits: Vec<u64>,
    words: usize,
}

impl HappensBefore {
    pub(super) fn new(graph: &Graph<'_>) -> Self {
        let words = graph.first_barrier.div_ceil(64);
        let mut bits = vec![0; graph.nodes * words];
        let outgoing = graph.outgoing();
        let (nodes, _) = graph.topological_order(&outgoing);
        for node in nodes {
            let mut so_far = bits[node * words..][..words].to_vec();
            if node < graph.first_barrier {
                so_far[node / 64] |= 1 << (node % 64);
            }
            for edge in graph.edges_from(&outgoing, node) {
                let later = &mut bits[edge.to * words..][..words];
                let words = later.iter_mut().zip(&so_far);
                words.for_each(|(to, from)| *to |= from);
            }
        }
        HappensBefore { bits, words }
    }

    /// Whether `call` comes before `node`.
    pub(super) fn contains(&self, call: usize, node: usize) -> bool {
        self.bits[node * self.words + call / 64] >> (call % 64) & 1 == 1
    }
}
