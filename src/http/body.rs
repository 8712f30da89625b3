//! A request's body in parts: what many requests share is copied for none of them, and what is written is let go, so that a
//! request that waits minutes for its answer holds nothing of it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// What a request sends, one part after another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body(VecDeque<Bytes>);

impl Body {
    /// These parts, in this order.
    pub fn of_parts<const N: usize>(parts: [Bytes; N]) -> Self {
        Self(parts.into_iter().filter(|part| !part.is_empty()).collect())
    }

    /// All of it in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.0.iter().flatten().copied().collect()
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(part: T) -> Self {
        Self::of_parts([part.into()])
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    /// Known from the beginning, so that it is announced: there are servers that take nothing in chunks.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body::Body as _;

    use super::*;

    #[test]
    fn parts_are_handed_out_in_order_and_let_go() {
        let shared = Bytes::from("shared".to_owned());
        let mut body = Body::of_parts([Bytes::from("own "), Bytes::new(), shared.clone()]);
        assert_eq!((body.to_vec(), body.size_hint().exact()), (b"own shared".to_vec(), Some(10)));
        let mut context = Context::from_waker(Waker::noop());
        let mut next = || match Pin::new(&mut body).poll_frame(&mut context) {
            Poll::Ready(frame) => frame.map(|frame| frame.unwrap().into_data().unwrap()),
            Poll::Pending => panic!("there is nothing to wait for"),
        };
        assert_eq!(next().as_deref(), Some(&b"own "[..]));
        let last = next().unwrap();
        assert_eq!((last.as_ptr(), last.len()), (shared.as_ptr(), shared.len()), "the very bytes, not a copy");
        assert_eq!(next(), None);
        drop(last);
        assert!(body.is_end_stream() && shared.is_unique());
    }
}
