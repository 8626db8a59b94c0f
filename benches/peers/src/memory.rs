//! Bytes per item held, by an allocator that counts what was asked for and not given back.

use crate::allocator::held;
use crate::figures::Figures;
use crate::keys::Shape;
use crate::stores::{Dash, Hashed, Memory, Ordered, Papaya, Scc, Store, Surreal};

pub(crate) const TABLE: &str = "bytes per item";
pub(crate) const SHAPES: [Shape; 2] = [
    Shape::new(1_000_000, 1_000),
    Shape::new(1_000_000, 1_000_000),
];

pub(crate) fn measure() -> Figures {
    let mut figures = Figures::default();
    for shape in SHAPES {
        weigh::<Memory>(shape, &mut figures);
        weigh::<Dash>(shape, &mut figures);
        weigh::<Papaya>(shape, &mut figures);
        weigh::<Scc>(shape, &mut figures);
        weigh::<Hashed>(shape, &mut figures);
        weigh::<Ordered>(shape, &mut figures);
        weigh::<Surreal>(shape, &mut figures);
    }
    figures
}

/// The items come in no order, so that no tree is filled to the brim from one end.
fn weigh<S: Store>(shape: Shape, figures: &mut Figures) {
    let order = crate::keys::Random::new(2).choose(shape.items, shape.items);
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
