//! From the first frame to `Welcome`.

use kith_chat_core::log::Connected;
use kith_proto::{
    PROTOCOL_VERSION, v1,
    v1::{client_frame, server_frame::Kind},
};

use super::{Action, CatchUp, ConnectFailure, Connection, Now, Op, Outgoing, State, close_code, refusal};
use crate::token::TokenError;

impl Connection {
    pub(super) fn hello_overdue(&mut self, out: &mut Vec<Action>) {
        if self.awaits_hello() {
            self.goodbye(v1::ErrorCode::HelloRequired, out);
        }
    }

    pub(super) fn first_frame(&mut self, id: u64, kind: client_frame::Kind, now: Now, out: &mut Vec<Action>) {
        let client_frame::Kind::Hello(hello) = kind else { return self.goodbye(v1::ErrorCode::HelloRequired, out) };
        if id == 0 {
            return self.goodbye(v1::ErrorCode::InvalidFrame, out);
        }
        if hello.version == 0 {
            let message = "this server speaks version 1";
            return self.refuse_hello(id, refusal::error(v1::ErrorCode::UnsupportedVersion, message), out);
        }
        if hello.epoch == 0 || hello.epoch > i64::MAX as u64 {
            return self.refuse_hello(id, refusal::invalid("epoch is 0 or too large"), out);
        }
        let caller = match self.shared.tokens.verify(&hello.token, now.unix_ms) {
            Ok(caller) => caller,
            Err(failure) => return self.refuse_hello(id, token_error(&failure), out),
        };
        self.me = Some(caller.device);
        self.epoch = hello.epoch;
        self.token_until_ms = caller.expires_ms;
        self.state = State::Connecting;
        out.push(Action::Identify(caller.device, caller.expires_ms));
        self.waiting.push_back(Op::Connect { request: id, epoch: hello.epoch });
    }

    pub(super) fn connected(&mut self, request: u64, result: Result<Connected, ConnectFailure>, now_ms: u64, out: &mut Vec<Action>) {
        match result {
            Ok(connected) => self.welcome(request, &connected, now_ms, out),
            Err(ConnectFailure::Refused(failure)) => self.refuse_hello(request, refusal::of_connect(&failure), out),
            Err(ConnectFailure::Cut(code)) => self.goodbye(code, out),
        }
    }

    fn welcome(&mut self, request: u64, connected: &Connected, now_ms: u64, out: &mut Vec<Action>) {
        let Some(me) = self.me else { return };
        let settings = &self.shared.settings;
        let whole = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let limits = v1::Limits {
            max_frame_bytes: whole(settings.max_frame_bytes),
            keep_alive_ms: u32::try_from(settings.keep_alive.as_millis()).unwrap_or(u32::MAX),
            max_sends_in_flight: settings.max_sends_in_flight,
            catch_up_window: settings.catch_up_window,
            max_page: settings.max_page,
        };
        let welcome = v1::Welcome {
            version: PROTOCOL_VERSION,
            features: Vec::new(),
            limits: Some(limits),
            server_time_ms: now_ms,
            account: me.account.to_bytes(),
            device: me.device.to_bytes(),
            device_counter: connected.device_counter,
            token_expires_ms: self.token_until_ms,
            device_list_version: connected.device_list_version,
            previous_epoch: connected.previous_epoch,
        };
        out.push(Action::Send(Outgoing::answer(request, Kind::Welcome(welcome))));
        let (one_time, one_time_kem) = connected.one_time_left;
        if one_time.min(one_time_kem) < settings.keys_low_below {
            out.push(Action::Send(Outgoing::push(Kind::KeysLow(v1::KeysLow { one_time, one_time_kem }))));
        }
        self.state = State::CatchingUp(Box::new(CatchUp::after_connect()));
    }

    /// A refused Hello is answered, then the socket closes.
    fn refuse_hello(&mut self, id: u64, error: v1::Error, out: &mut Vec<Action>) {
        out.push(Action::Send(Outgoing::answer(id, Kind::Error(error))));
        self.close(close_code(v1::ErrorCode::Unauthenticated), out);
    }
}

pub(super) fn token_error(failure: &TokenError) -> v1::Error {
    match failure {
        TokenError::Invalid => refusal::error(v1::ErrorCode::Unauthenticated, "the token is not valid"),
        TokenError::Expired => refusal::error(v1::ErrorCode::TokenExpired, "the token has expired"),
    }
}
