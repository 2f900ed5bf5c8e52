//! Every JSON body of REST, requests and answers: the first byte says which.
#![no_main]

use kith_proto::rest::{
    Bundles, BundlesRequest, ChallengeRequest, ChallengeResponse, Devices, ErrorBody, History, KeysState, LimitsResponse, LoginRequest, PrekeyUpload,
    PublishListRequest, PublishedList, RefreshRequest, RegisterRequest, RegisterResponse, RotateRequest, SignedStatement, Tokens, UserResponse,
};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fn reads_back<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(json: &[u8]) {
    if let Ok(body) = serde_json::from_slice::<T>(json) {
        let again = serde_json::to_vec(&body).expect("a body has a JSON form");
        assert_eq!(serde_json::from_slice::<T>(&again).expect("own text"), body);
    }
}

const BODIES: [fn(&[u8]); 20] = [
    reads_back::<RegisterRequest>,
    reads_back::<LoginRequest>,
    reads_back::<ChallengeRequest>,
    reads_back::<RefreshRequest>,
    reads_back::<RotateRequest>,
    reads_back::<PublishListRequest>,
    reads_back::<SignedStatement>,
    reads_back::<PrekeyUpload>,
    reads_back::<BundlesRequest>,
    reads_back::<ChallengeResponse>,
    reads_back::<RegisterResponse>,
    reads_back::<Tokens>,
    reads_back::<UserResponse>,
    reads_back::<History>,
    reads_back::<Devices>,
    reads_back::<PublishedList>,
    reads_back::<KeysState>,
    reads_back::<Bundles>,
    reads_back::<LimitsResponse>,
    reads_back::<ErrorBody>,
];

fuzz_target!(|data: &[u8]| {
    if let Some((which, json)) = data.split_first() {
        BODIES[usize::from(*which) % BODIES.len()](json);
    }
});
