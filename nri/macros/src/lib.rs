//! The `#[nri::plugin]` attribute.
//!
//! A runtime only sends what a plugin subscribes to, and each event costs every container on the node
//! some time, so the subscription should be exactly what the plugin handles. Rust cannot ask which
//! provided methods an implementation overrides; this attribute can, because it sees the source.

use proc_macro::TokenStream;
use proc_macro2::Span;
use quote::quote;
use syn::{Ident, ImplItem, ItemImpl, parse_macro_input, parse_quote};

/// Method names and the constants of `nri::Events` they stand for.
const EVENTS: [(&str, &str); 14] = [
    ("run_pod_sandbox", "RUN_POD_SANDBOX"),
    ("stop_pod_sandbox", "STOP_POD_SANDBOX"),
    ("remove_pod_sandbox", "REMOVE_POD_SANDBOX"),
    ("create_container", "CREATE_CONTAINER"),
    ("post_create_container", "POST_CREATE_CONTAINER"),
    ("start_container", "START_CONTAINER"),
    ("post_start_container", "POST_START_CONTAINER"),
    ("update_container", "UPDATE_CONTAINER"),
    ("post_update_container", "POST_UPDATE_CONTAINER"),
    ("stop_container", "STOP_CONTAINER"),
    ("remove_container", "REMOVE_CONTAINER"),
    ("update_pod_sandbox", "UPDATE_POD_SANDBOX"),
    ("post_update_pod_sandbox", "POST_UPDATE_POD_SANDBOX"),
    ("validate_container_adjustment", "VALIDATE_CONTAINER_ADJUSTMENT"),
];

/// Adds `Plugin::events` to an `impl Plugin for …` block: the events whose methods it has.
///
/// To subscribe to fewer, for instance depending on configuration, leave the attribute out and write
/// `events` by hand.
#[proc_macro_attribute]
pub fn plugin(attribute: TokenStream, item: TokenStream) -> TokenStream {
    if !attribute.is_empty() {
        return error(Span::call_site(), "`#[nri::plugin]` takes no arguments");
    }
    let mut block = parse_macro_input!(item as ItemImpl);
    if block.trait_.is_none() {
        return error(
            block.impl_token.span,
            "`#[nri::plugin]` belongs on an `impl nri::Plugin for …` block",
        );
    }
    if let Some(span) = method_span(&block, "events") {
        return error(
            span,
            "`#[nri::plugin]` writes `events` itself: remove one of the two",
        );
    }
    let subscribed = subscribed(&block);
    block.items.push(parse_quote! {
        fn events(&self) -> ::nri::Events {
            ::nri::Events::NONE #(| ::nri::Events::#subscribed)*
        }
    });
    quote!(#block).into()
}

fn subscribed(block: &ItemImpl) -> Vec<Ident> {
    EVENTS
        .iter()
        .filter_map(|(method, event)| method_span(block, method).map(|span| Ident::new(event, span)))
        .collect()
}

fn method_span(block: &ItemImpl, name: &str) -> Option<Span> {
    block.items.iter().find_map(|item| match item {
        ImplItem::Fn(method) if method.sig.ident == name => Some(method.sig.ident.span()),
        _ => None,
    })
}

fn error(span: Span, message: &str) -> TokenStream {
    syn::Error::new(span, message).to_compile_error().into()
}
