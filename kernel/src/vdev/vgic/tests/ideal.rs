//! A GIC without list registers: every interrupt in one place, delivered by definition.

/// One interrupt.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub intid: u32,
    pub lpi: bool,
    pub enabled: bool,
    pub edge: bool,
    pub latch: bool,
    /// Stands for a physical interrupt, which came again before its deactivation: it is pending there meanwhile.
    pub again: bool,
    pub high: bool,
    pub active: bool,
    pub priority: u8,
    pub target: usize,
}

impl Line {
    pub fn pending(&self) -> bool {
        self.latch || self.high && !self.edge
    }
}

#[derive(Default)]
pub struct Ideal {
    pub lines: Vec<Line>,
    /// Taken and not ended, by CPU, the most urgent last.
    pub running: Vec<Vec<(u32, u8)>>,
    /// Ended but not deactivated, by CPU.
    pub dropped: Vec<Vec<u32>>,
}

impl Ideal {
    pub fn line(&mut self, cpu: usize, intid: u32) -> &mut Line {
        let mine = |line: &&mut Line| line.intid == intid && (intid >= 32 || line.target == cpu);
        self.lines.iter_mut().find(mine).unwrap()
    }

    /// The most urgent priority that `cpu` is to be signalled.
    pub fn signalled(&self, cpu: usize) -> Option<u8> {
        let running = self.running[cpu]
            .last()
            .map_or(0xf8, |&(_, priority)| priority);
        self.lines
            .iter()
            .filter(|l| {
                l.target == cpu && l.enabled && l.pending() && !l.active && l.priority < running
            })
            .map(|l| l.priority)
            .min()
    }

    /// `cpu` took `intid`: it must have been one of the most urgent.
    pub fn take(&mut self, cpu: usize, intid: u32, priority: u8) {
        assert_eq!(
            self.signalled(cpu),
            Some(priority),
            "priority order, {intid}"
        );
        let line = self.line(cpu, intid);
        assert!(
            line.target == cpu && line.enabled && line.pending() && !line.active,
            "{line:?}"
        );
        assert_eq!(line.priority, priority);
        line.latch = false;
        line.active = !line.lpi;
        self.running[cpu].push((intid, priority));
    }

    pub fn deactivate(&mut self, cpu: usize, intid: u32) {
        let line = self.line(cpu, intid);
        line.active = false;
        line.latch |= core::mem::take(&mut line.again);
    }
}
