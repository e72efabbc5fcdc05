//! The order in which the coefficients of a block are stored (ITU-T T.81, figure A.6), and the corner that is used.

/// Place in rows of eight of each coefficient, by its index in the file.
pub const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The `side` × `side` lowest frequencies of a block, which a transform to `side` × `side` pixels uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corner {
    pub side: usize,
    /// Which indices of the file's order are inside, as bits.
    pub mask: u64,
}

impl Corner {
    pub fn new(side: usize) -> Self {
        let mask = (0..64)
            .filter(|&index| place(index, side).is_some())
            .fold(0, |mask, index| mask | 1 << index);
        Self { side, mask }
    }

    pub fn len(self) -> usize {
        self.side * self.side
    }

    /// Place in rows of `side` of the coefficient at `index` of the file's order, if it is inside.
    pub fn place(self, index: usize) -> Option<usize> {
        place(index, self.side)
    }
}

fn place(index: usize, side: usize) -> Option<usize> {
    let natural = usize::from(ZIGZAG[index]);
    let (row, column) = (natural / 8, natural % 8);
    (row < side && column < side).then_some(row * side + column)
}
