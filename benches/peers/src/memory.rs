//! Bytes per stored item, by an allocator that counts the bytes that are allocated and not freed.

use crate::allocator::held;
use crate::figures::Figures;
use crate::keys::{Random, Shape};
use crate::stores::{
    DashMapStore, MemoryDbStore, MutexBTreeMap, MutexHashMap, PapayaStore, SccStore, Store,
    SurrealStore, TreeIndexStore, TxMapStore,
};

pub(crate) const TABLE: &str = "bytes per item";
pub(crate) const SHAPES: [Shape; 5] = [
    Shape::new(10_000, 1),
    Shape::new(100_000, 1),
    Shape::new(1_000_000, 1_000),
    Shape::new(1_000_000, 1_000_000),
    Shape::new(10_000_000, 1),
];

pub(crate) fn measure() -> Figures {
    let mut figures = Figures::default();
    for shape in SHAPES {
        weigh::<MemoryDbStore>(shape, &mut figures);
        weigh::<DashMapStore>(shape, &mut figures);
        weigh::<PapayaStore>(shape, &mut figures);
        weigh::<SccStore>(shape, &mut figures);
        weigh::<MutexHashMap>(shape, &mut figures);
        weigh::<MutexBTreeMap>(shape, &mut figures);
        weigh::<TxMapStore>(shape, &mut figures);
        // These take minutes to fill at the largest size.
        if shape.items <= 1_000_000 {
            weigh::<TreeIndexStore>(shape, &mut figures);
            weigh::<SurrealStore>(shape, &mut figures);
        }
    }
    figures
}

/// The items are inserted in random order, so that no tree is filled densely from one end.
fn weigh<S: Store>(shape: Shape, figures: &mut Figures) {
    let order = Random::new(2).choose(shape.items, shape.items);
    let (store, bytes) = held(|| {
        let store = S::new();
        for some in order.chunks(1_000) {
            let key = |number: &usize| {
                let pair = shape.item(*number);
                (S::key(&pair.pk, &pair.sk), 1)
            };
            let items: Vec<(S::Key, u64)> = some.iter().map(key).collect();
            store.load(&items);
        }
        store
    });
    let each = bytes as f64 / shape.items as f64;
    eprintln!("{TABLE}, {shape}: {} {each:.1}", S::NAME);
    figures.add(TABLE, &shape.to_string(), S::NAME, each);
    drop(store);
}
