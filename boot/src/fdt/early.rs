//! Where the SMMUs are, before anything else is read: one pass over the structure block (DTSpec 5.4) that allocates
//! nothing. What is found is stopped at once; the whole tree has to say the same later.

use super::tree::{Bad, Cells, MAX_DEPTH, through};
use super::{FdtError, HEADER_SIZE, Item, total_size};
use iommu::addr::{Hpa, Span};
use kernel::boot_info::Smmu;

/// Registers start at one (IHI 0070, 6.1): each of them is aligned then.
const PAGE: u64 = 4096;
/// More in one tree are refused.
const MAX_SMMUS: usize = 16;

// Tokens (DTSpec 5.4.1).
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Registers of all SMMUs, in the order of the structure block.
pub struct Smmus {
    spans: [Span<Hpa>; MAX_SMMUS],
    count: usize,
}

/// An open node: what of its properties matters here.
#[derive(Clone, Copy, Default)]
struct Level<'a> {
    smmu: Option<bool>,
    enabled: Option<bool>,
    reg: Option<&'a [u8]>,
    ranges: Option<&'a [u8]>,
    address_cells: Option<u32>,
    size_cells: Option<u32>,
    /// It has children: no more properties may follow (DTSpec 5.4.2).
    closed: bool,
}

/// Finds the enabled nodes that are compatible with `arm,smmu-v3`.
///
/// # Errors
/// The tree is malformed, or an SMMU's registers cannot be told: then the tree as a whole is refused.
pub fn smmus(bytes: &[u8]) -> Result<Smmus, FdtError> {
    let (mut structure, strings) = blocks(bytes).ok_or(FdtError::Malformed)?;
    let mut levels = [Level::default(); MAX_DEPTH + 1];
    let mut depth = 0;
    let mut found = Smmus::NONE;
    loop {
        match structure.next().ok_or(FdtError::Malformed)? {
            NOP => {}
            BEGIN_NODE => {
                let name = structure.0.iter().position(|&byte| byte == 0);
                name.and_then(|len| padded(&mut structure, len + 1))
                    .ok_or(FdtError::Malformed)?;
                if let Some(parent) = levels[..depth].last_mut() {
                    parent.closed = true;
                }
                let level = levels.get_mut(depth).ok_or(FdtError::TooDeep(MAX_DEPTH))?;
                *level = Level::default();
                depth += 1;
            }
            PROP => {
                let level = levels[..depth].last_mut().filter(|level| !level.closed);
                level
                    .and_then(|level| property(level, &mut structure, strings))
                    .ok_or(FdtError::Malformed)?;
            }
            END_NODE => {
                let open = &levels[..depth];
                let (node, above) = open.split_last().ok_or(FdtError::Malformed)?;
                if node.smmu == Some(true) && open.iter().all(|level| level.enabled != Some(false))
                {
                    let span = place(node, above).map_err(|p| FdtError::Property(Item::Smmu, p))?;
                    found.push(span)?;
                }
                depth -= 1;
            }
            END if depth == 0 => return Ok(found),
            _ => return Err(FdtError::Malformed),
        }
    }
}

impl Smmus {
    const NONE: Self = Self {
        spans: [Span {
            base: Hpa(0),
            len: 0,
        }; MAX_SMMUS],
        count: 0,
    };

    /// Those of `smmus`, in their order.
    ///
    /// # Errors
    /// There are too many.
    pub fn of(smmus: &[Smmu]) -> Result<Self, FdtError> {
        let mut all = Self::NONE;
        for smmu in smmus {
            all.push(smmu.registers)?;
        }
        Ok(all)
    }

    fn push(&mut self, span: Span<Hpa>) -> Result<(), FdtError> {
        let place = self.spans.get_mut(self.count);
        *place.ok_or(FdtError::TooManySmmus(MAX_SMMUS))? = span;
        self.count += 1;
        Ok(())
    }

    /// Their registers.
    pub fn registers(&self) -> &[Span<Hpa>] {
        &self.spans[..self.count]
    }

    /// Whether these are `others`.
    pub fn are(&self, others: &[Smmu]) -> bool {
        let same = |other: &Smmu| self.registers().contains(&other.registers);
        self.count == others.len() && others.iter().all(same)
    }
}

/// Structure and strings (DTSpec 5.2).
fn blocks(bytes: &[u8]) -> Option<(Cells<'_>, &[u8])> {
    let header: &[u8; HEADER_SIZE] = bytes.first_chunk()?;
    let bytes = bytes.get(..total_size(header).ok()?)?;
    let word = |index: usize| Some(Cells(bytes.get(4 * index..)?).next()? as usize);
    let block = |offset: usize, len: usize| bytes.get(offset..)?.get(..len);
    let structure = block(word(2)?, word(9)?)?;
    Some((Cells(structure), block(word(3)?, word(8)?)?))
}

/// Takes `len` bytes and what fills their last word.
fn padded<'a>(structure: &mut Cells<'a>, len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = structure
        .0
        .split_at_checked(len.checked_next_multiple_of(4)?)?;
    structure.0 = rest;
    taken.get(..len)
}

/// Reads one property behind its token. Of several with one name the first counts, as everywhere.
fn property<'a>(level: &mut Level<'a>, structure: &mut Cells<'a>, strings: &[u8]) -> Option<()> {
    let len = structure.next()? as usize;
    let name = strings.get(structure.next()? as usize..)?;
    let value = padded(structure, len)?;
    let is = |wanted: &[u8]| name.starts_with(wanted);
    let cell = || Cells(value).next();
    if is(b"compatible\0") {
        let smmu = value
            .split(|&byte| byte == 0)
            .any(|one| one == b"arm,smmu-v3");
        level.smmu.get_or_insert(smmu);
    } else if is(b"status\0") {
        level
            .enabled
            .get_or_insert(matches!(value, b"okay\0" | b"ok\0"));
    } else if is(b"reg\0") {
        level.reg.get_or_insert(value);
    } else if is(b"ranges\0") {
        level.ranges.get_or_insert(value);
    } else if is(b"#address-cells\0") {
        level.address_cells = level.address_cells.or_else(cell);
    } else if is(b"#size-cells\0") {
        level.size_cells = level.size_cells.or_else(cell);
    }
    Some(())
}

impl Level<'_> {
    /// Cells of an address and of a size among its children (DTSpec 2.3.5).
    fn cells(&self) -> (usize, usize) {
        let (address, size) = (
            self.address_cells.unwrap_or(2),
            self.size_cells.unwrap_or(1),
        );
        (address as usize, size as usize)
    }
}

/// The first registers of a node, as the CPU sees them; `above` are the nodes that it is in, the root first.
fn place(node: &Level<'_>, above: &[Level<'_>]) -> Result<Span<Hpa>, Bad> {
    let (address, size) = above.last().ok_or("reg")?.cells();
    let mut reg = Cells(node.reg.ok_or("reg")?);
    let base = reg.number(address).ok_or("reg")?;
    let len = reg.number(size).filter(|&len| len != 0).ok_or("reg")?;
    let span = Span::<Hpa>::new(Hpa(base), len).ok_or("reg")?;
    let mut buses = above.windows(2).rev();
    let span = buses.try_fold(span, |span, pair| {
        let (parent, bus) = (&pair[0], &pair[1]);
        let (parent_address, _) = parent.cells();
        through(
            bus.ranges.ok_or("ranges")?,
            bus.cells(),
            parent_address,
            span,
        )
    })?;
    match span.base.0.is_multiple_of(PAGE) {
        true => Ok(span),
        false => Err("reg"),
    }
}
