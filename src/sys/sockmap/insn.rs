//! A small assembler for eBPF (Linux `Documentation/bpf/standardization/instruction-set.rst`):
//! just what the programs in [`super::programs`] need, with labels for forward jumps.

use std::os::fd::{AsRawFd, BorrowedFd};

/// A register. R0 holds results, R1 to R5 arguments, R6 to R9 survive calls, R10 is the frame.
#[derive(Clone, Copy)]
pub(super) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R6 = 6,
    R7,
    R8,
    R9,
    R10,
}

/// How many bytes a load or store moves.
#[derive(Clone, Copy)]
pub(super) enum Size {
    /// 4 bytes.
    Word,
    /// 8 bytes.
    Double,
}

/// A condition for a jump, unsigned.
#[derive(Clone, Copy)]
pub(super) enum When {
    Equal = 0x10,
    Greater = 0x20,
    NotEqual = 0x50,
}

/// A place to jump to, further down.
#[derive(Clone, Copy)]
pub(super) struct Label(usize);

#[derive(Default)]
struct JumpTarget {
    at: Option<usize>,
    jumps: Vec<usize>,
}

/// A program under construction.
#[derive(Default)]
pub(super) struct Asm {
    code: Vec<[u8; 8]>,
    labels: Vec<JumpTarget>,
}

const CLASS_LOAD_IMMEDIATE: u8 = 0x18;
const CLASS_LOAD: u8 = 0x61;
const CLASS_STORE_IMMEDIATE: u8 = 0x62;
const CLASS_STORE: u8 = 0x63;
const DOUBLE: u8 = 0x18;
const ALU64_MOVE: u8 = 0xb7;
const ALU64_ADD: u8 = 0x07;
const ALU64_AND: u8 = 0x57;
const FROM_REGISTER: u8 = 0x08;
const JUMP: u8 = 0x05;
const JUMP32: u8 = 0x06;
const TO_BIG_ENDIAN: u8 = 0xdc;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// The immediate is the descriptor of a map.
const PSEUDO_MAP: u8 = 1;
/// The immediate is the number of a function in the kernel's types.
const PSEUDO_FUNCTION: u8 = 2;

impl Size {
    fn class(self, word: u8) -> u8 {
        match self {
            Self::Word => word,
            Self::Double => word | DOUBLE,
        }
    }
}

impl Asm {
    fn push(&mut self, code: u8, (dst, src): (u8, u8), offset: i16, immediate: i32) -> usize {
        let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_le_bytes(), immediate.to_le_bytes());
        self.code.push([code, dst | (src << 4), o0, o1, i0, i1, i2, i3]);
        self.code.len() - 1
    }

    /// `dst = src`
    pub(super) fn copy(&mut self, dst: Reg, src: Reg) {
        self.push(ALU64_MOVE | FROM_REGISTER, (dst as u8, src as u8), 0, 0);
    }

    /// `dst = number`
    pub(super) fn set(&mut self, dst: Reg, number: i32) {
        self.push(ALU64_MOVE, (dst as u8, 0), 0, number);
    }

    /// `dst &= mask`
    pub(super) fn mask(&mut self, dst: Reg, mask: i32) {
        self.push(ALU64_AND, (dst as u8, 0), 0, mask);
    }

    /// Turns the low 4 bytes around.
    pub(super) fn byte_swap(&mut self, dst: Reg) {
        self.push(TO_BIG_ENDIAN, (dst as u8, 0), 0, 32);
    }

    /// `dst = &stack[offset]`
    pub(super) fn stack(&mut self, dst: Reg, offset: i16) {
        self.copy(dst, Reg::R10);
        self.push(ALU64_ADD, (dst as u8, 0), 0, offset.into());
    }

    /// `dst = map`
    pub(super) fn map(&mut self, dst: Reg, map: BorrowedFd<'_>) {
        self.push(CLASS_LOAD_IMMEDIATE, (dst as u8, PSEUDO_MAP), 0, map.as_raw_fd());
        self.push(0, (0, 0), 0, 0);
    }

    /// `dst = *(src + offset)`
    pub(super) fn load(&mut self, size: Size, dst: Reg, src: Reg, offset: i16) {
        self.push(size.class(CLASS_LOAD), (dst as u8, src as u8), offset, 0);
    }

    /// `stack[offset] = src`
    pub(super) fn store(&mut self, size: Size, offset: i16, src: Reg) {
        self.push(size.class(CLASS_STORE), (Reg::R10 as u8, src as u8), offset, 0);
    }

    /// `stack[offset] = number`, 4 bytes
    pub(super) fn store_word(&mut self, offset: i16, number: i32) {
        self.push(CLASS_STORE_IMMEDIATE, (Reg::R10 as u8, 0), offset, number);
    }

    /// Calls a helper of the kernel by its number (`bpf-helpers(7)`).
    pub(super) fn call(&mut self, helper: i32) {
        self.push(CALL, (0, 0), 0, helper);
    }

    /// Calls a function of the kernel (`Documentation/bpf/kfuncs.rst`).
    pub(super) fn call_function(&mut self, number: i32) {
        self.push(CALL, (0, PSEUDO_FUNCTION), 0, number);
    }

    /// Ends the program with what is in R0.
    pub(super) fn exit(&mut self) {
        self.push(EXIT, (0, 0), 0, 0);
    }

    /// A label that [`Asm::place`] puts somewhere below.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(JumpTarget::default());
        Label(self.labels.len() - 1)
    }

    /// Jumps to `label` always.
    pub(super) fn jump(&mut self, label: Label) {
        let at = self.push(JUMP, (0, 0), 0, 0);
        self.labels[label.0].jumps.push(at);
    }

    /// Jumps to `label` if `left`, as 64 bits, compares like this with `right`.
    pub(super) fn jump_if(&mut self, left: Reg, when: When, right: i32, label: Label) {
        let at = self.push(JUMP | when as u8, (left as u8, 0), 0, right);
        self.labels[label.0].jumps.push(at);
    }

    /// Jumps to `label` if the low 32 bits of two registers compare like this.
    pub(super) fn jump32_if(&mut self, left: Reg, when: When, right: Reg, label: Label) {
        let code = JUMP32 | when as u8 | FROM_REGISTER;
        let at = self.push(code, (left as u8, right as u8), 0, 0);
        self.labels[label.0].jumps.push(at);
    }

    /// Puts `label` here.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0].at = Some(self.code.len());
    }

    /// The program, 8 bytes per instruction.
    ///
    /// # Panics
    /// If a label was not placed, which the programs' own tests would show.
    pub(super) fn finish(mut self) -> Vec<[u8; 8]> {
        for JumpTarget { at, jumps } in self.labels {
            let at = at.expect("every label is placed");
            for jump in jumps {
                let distance = i16::try_from(at - jump - 1).expect("programs are short");
                self.code[jump][2..4].copy_from_slice(&distance.to_le_bytes());
            }
        }
        self.code
    }
}
